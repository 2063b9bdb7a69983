"""The servers run with the arguments and health checks of compose.yaml and become a cluster. `scripts/images.sh` runs this
once more with the binaries inside their images (M1_BIN)."""

from cluster import wait_until
from compose import ComposeCluster


def test_compose_is_a_cluster(stubs, tmp_path):
    from client import Client
    with ComposeCluster(tmp_path) as cluster:
        for name in cluster.processes:
            cluster.wait_healthy(name)
        assert cluster.check_health("router").stdout == "ready\n"
        assert "experts=0-15 of=32" in cluster.processes["expert-worker-0"].log()
        assert "experts=16-31 of=32" in cluster.processes["expert-worker-1"].log()
        with Client(cluster.processes["router"].address) as client:
            answer = client.generate(chat=[("user", "764 + 621")], temperature=0)
            assert "1385" in answer.text and len(answer.ids) > 1

        # Without some experts no request can be answered: the router says so, and nobody else is unhealthy for it.
        lost = cluster.processes["expert-worker-1"]
        assert lost.terminate() < lost.grace_seconds
        wait_until(lambda: not cluster.healthy("router"), what="router unhealthy")
        refused = cluster.check_health("router")
        assert refused.returncode == 1 and "/readyz says 503: no attention worker of 1 is ready" in refused.stderr, refused.stderr
        assert cluster.healthy("attention-worker") and cluster.healthy("expert-worker-0")
        gone = cluster.check_health("expert-worker-1")
        assert gone.returncode == 1 and "no connection" in gone.stderr
        lost.start()
        cluster.wait_healthy("router")
        for process in cluster.processes.values():
            assert process.terminate() < process.grace_seconds
