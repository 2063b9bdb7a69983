"""Who may call whom: TLS and roles between the processes, tokens at the router. Real certificates, made by openssl."""

import os
import socket
import subprocess
import threading
import time

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from certificates import Authority, code_of, replace_file, token_line
from client import Client
from cluster import BIN, Cluster, Process, is_serving, run_m1, wait_serving, wait_until

MODEL = "models/tiny"
ROLES = ("router", "attention-worker", "expert-worker")
CALLER = {"attention-worker": "router", "expert-worker": "attention-worker"}
HEALTH = "/grpc.health.v1.Health/Check"
TOKENS = {"alice": "secret-a", "bob": "secret-b", "root": "secret-root"}
DENIED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}


def token_lines(tokens):
    """`root` is an admin."""
    return "".join(token_line(name, token, admin=name == "root") for name, token in tokens.items())


class Fleet:
    """A cluster with TLS on every port, one expert over gRPC and one over shared memory, and tokens."""

    def __init__(self, folder):
        self.authority = Authority(folder / "authority")
        self.identities = {role: self.authority.issue(role, [role]) for role in ROLES}
        self.stranger = self.authority.issue("stranger")
        self.token_file = folder / "tokens"
        self.token_file.write_text(token_lines(TOKENS))
        router = self.identities["router"]
        self.cluster = Cluster(
            MODEL, expert_workers=2, shm=[1], attention_workers=2, credentials=router.credentials(show=False),
            expert_flags=self.identities["expert-worker"].flags(),
            attention_flags=self.identities["attention-worker"].flags(),
            router_flags=[*router.flags(), f"--token_file={self.token_file}"])

    def server(self, role):
        return {"router": self.cluster.router, "attention-worker": self.cluster.attention[0],
                "expert-worker": self.cluster.experts[0]}[role]

    def client(self, token=TOKENS["root"]):
        return Client(self.cluster.target, credentials=self.identities["router"].credentials(token, show=False))

    def channel(self, role, identity=None, authority=None):
        """To the server of a role, as a process with this certificate."""
        credentials = identity.credentials() if identity else (authority or self.identities["router"]).credentials(show=False)
        return grpc.secure_channel(self.server(role).address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture(scope="module")
def fleet(stubs, tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp("security"))
    with fleet.cluster:
        yield fleet


def all_methods(channel):
    """As the server itself tells, and one that nobody has. gRPC's own health service is named without its methods."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)
    methods = [f"/{service}/{method.name}" for service in database.get_services() if not service.startswith("grpc.health.")
               for method in pool.FindServiceByName(service).methods]
    assert "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" in methods
    return [HEALTH, *methods, "/m1.v1.Nobody/Knows"]


@pytest.mark.parametrize("role", CALLER)
def test_a_worker_answers_the_role_above_it_alone(fleet, role):
    with fleet.channel(role, fleet.identities[CALLER[role]]) as channel:
        methods = all_methods(channel)
        assert len(methods) >= 5
        for method in methods:
            assert code_of(channel, method) not in DENIED, method
    others = [fleet.identities[other] for other in ROLES if other != CALLER[role]]
    for identity in [*others, fleet.stranger]:
        with fleet.channel(role, identity) as channel:
            for method in methods:
                wanted = {True: lambda code: code not in DENIED, False: lambda code: code == grpc.StatusCode.PERMISSION_DENIED}
                assert wanted["/grpc.health." in method](code_of(channel, method)), (identity.folder.name, method)


@pytest.mark.parametrize("role", CALLER)
def test_a_worker_wants_a_certificate_of_the_fleet(fleet, role, tmp_path):
    others = Authority(tmp_path / "elsewhere").issue("router", [CALLER[role]])
    others.path("ca.crt").write_bytes(fleet.authority.certificate.read_bytes())  # they trust us, but we do not trust them
    expired = fleet.authority.issue("expired", [CALLER[role]], days=-1)
    for identity in (None, others, expired):
        with fleet.channel(role, identity) as channel:
            assert code_of(channel, HEALTH) == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(fleet.server(role).address) as channel:
        assert code_of(channel, HEALTH) == grpc.StatusCode.UNAVAILABLE


def test_the_router_wants_a_token_for_everything_but_health(fleet):
    """And an admin's for everything that changes or shows the fleet."""
    bearer = ("authorization", f"Bearer {TOKENS['alice']}")
    with fleet.channel("router") as plain, grpc.secure_channel(
            fleet.cluster.target, fleet.identities["router"].credentials(TOKENS["root"], show=False)) as known:
        methods = all_methods(known)
        assert len(methods) >= 10
        for method in methods:
            refused = {code_of(plain, method, metadata) for metadata in (
                (), (("authorization", "Bearer wrong"),), (("authorization", TOKENS["alice"]),), (bearer, bearer),
                (("authorization", "Basic " + TOKENS["alice"]),))}
            if "/grpc.health." in method:
                assert not refused & DENIED
            else:
                assert refused == {grpc.StatusCode.UNAUTHENTICATED}, method
            of_alice = code_of(plain, method, (bearer,))
            assert (of_alice == grpc.StatusCode.PERMISSION_DENIED) == method.startswith("/m1.v1.Control/"), method
            assert of_alice != grpc.StatusCode.UNAUTHENTICATED, method
            if not method.endswith("/Drain"):
                assert code_of(known, method) not in DENIED, method


def test_a_denied_client_is_told_what_is_missing(fleet):
    with fleet.channel("router") as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/m1.v1.Inference/GetModelInfo")(b"", timeout=5)
    assert "authorization: Bearer TOKEN" in error.value.details()


def test_one_answer_with_tls_and_without(fleet, stubs):
    with fleet.client() as client, Cluster(MODEL, expert_workers=3) as plain, Client(plain.target) as plain_client:
        for seed in range(3):
            question = {"chat": [("user", f"{311 + seed} + 48")], "temperature": seed, "seed": 7, "max_new_tokens": 200}
            assert client.generate(**question).key() == plain_client.generate(**question).key()


def test_both_transports_carried_it(fleet):
    """Each has memory of its own to be woken by; with the attention workers only the second one shares some."""
    over_grpc, over_shm = (expert.num_shared_mappings() for expert in fleet.cluster.experts)
    assert over_shm > over_grpc


@pytest.mark.parametrize("role, flag", [("router", "--attention_workers"), ("attention-worker", "--expert_workers")])
def test_workers_are_called_over_tls(fleet, role, flag):
    """What a caller says first: a handshake record of TLS, where plaintext would begin with HTTP/2's preface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(15)
        caller = Process(f"m1-{role}", f"--model={MODEL}", f"{flag}=127.0.0.1:{listener.getsockname()[1]}",
                         *fleet.identities[role].flags()).start()
        try:
            with listener.accept()[0] as connection:
                connection.settimeout(15)
                assert connection.recv(2) == b"\x16\x03"
        finally:
            caller.stop()


def test_a_worker_that_is_no_expert_worker_gets_no_rows(fleet):
    """Its certificate is of the fleet, but another role's: as when somebody mixes up two addresses."""
    wrong = Process("m1-attention-worker", f"--model={MODEL}", f"--expert_workers={fleet.server('attention-worker').address}",
                    *fleet.identities["attention-worker"].flags()).start()
    try:
        wait_until(lambda: "no alternative name URI:spiffe://m1-serve/role/expert-worker" in wrong.log(), what="a clear log line")
        assert not is_serving(wrong.address, fleet.identities["router"].credentials())
    finally:
        wrong.stop()


def served_serial(server):
    """Of the certificate that the router shows to a new connection."""
    shown = subprocess.run(["openssl", "s_client", "-connect", server.address, "-alpn", "h2"], stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=120, check=False).stdout
    return subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True,
                          check=True).stdout.decode().strip()


class SteadyCalls:
    """Threads that connect anew for each call, with the trust of before and after."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.answered = 0
        self.problems = []
        self.stopping = False
        self.threads = [threading.Thread(target=self.run) for _ in range(3)]

    def run(self):
        while not self.stopping:
            try:
                with self.fleet.client() as client:
                    client.generate(ids=[5, 6, 7], max_new_tokens=2, ignore_eos=True)
                self.answered += 1
            except (grpc.RpcError, AssertionError) as error:
                self.problems.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join()


def test_certificates_and_tokens_are_renewed_under_load(fleet):
    router = fleet.identities["router"]
    renewed = {role: fleet.authority.issue(f"{role}-next", [role]) for role in ROLES}
    with SteadyCalls(fleet) as calls:
        before = served_serial(fleet.cluster.router)
        assert before == router.serial()
        router.take(renewed["router"], ["tls.crt"])  # the key is still the old one's
        time.sleep(1.5)
        assert served_serial(fleet.cluster.router) == before
        router.take(renewed["router"])
        wait_until(lambda: served_serial(fleet.cluster.router) == renewed["router"].serial(), what="the new certificate")
        for role in CALLER:
            fleet.identities[role].take(renewed[role])
        replace_file(fleet.token_file, token_lines({**TOKENS, "carol": "secret-c"}))
        with fleet.channel("router") as channel:
            carol = (("authorization", "Bearer secret-c"),)
            wait_until(lambda: code_of(channel, "/m1.v1.Inference/GetModelInfo", carol) == grpc.StatusCode.OK, what="carol")
            replace_file(fleet.token_file, "carol nonsense\n")
            time.sleep(1.5)
            assert code_of(channel, "/m1.v1.Inference/GetModelInfo", carol) == grpc.StatusCode.OK
            replace_file(fleet.token_file, token_lines(TOKENS))
            wait_until(lambda: code_of(channel, "/m1.v1.Inference/GetModelInfo", carol) == grpc.StatusCode.UNAUTHENTICATED,
                       what="carol's token is gone")
    assert calls.answered > 20 and not calls.problems, calls.problems[:3]
    log = fleet.cluster.router.log()
    assert "event=tls_reload_failed" in log and "event=tls_reloaded" in log
    assert not [token for token in TOKENS.values() if token in log]


def test_an_authority_is_replaced_without_a_stop(fleet, tmp_path):
    """Both are trusted for a while; then certificates are the new one's; then the old one is trusted no more. Old connections
    go on; whoever connects anew needs what is valid now."""
    successor = Authority(tmp_path / "successor")
    new = {role: successor.issue(role, [role]) for role in ROLES}
    both = fleet.authority.certificate.read_bytes() + successor.certificate.read_bytes()

    def everywhere(change):
        reloads = {process: process.log().count("event=tls_reloaded") for process in processes}
        for role in ROLES:
            change(role)
        for process in processes:
            wait_until(lambda: process.log().count("event=tls_reloaded") > reloads[process], what=f"{process.name} reloaded")

    def trust_both(role):
        bundle = new[role].path("ca.crt")
        bundle.write_bytes(both)
        fleet.identities[role].take(new[role], ["ca.crt"])

    def trust_the_new_one(role):
        new[role].path("ca.crt").write_bytes(successor.certificate.read_bytes())
        fleet.identities[role].take(new[role])

    processes = [fleet.cluster.router, *fleet.cluster.attention, *fleet.cluster.experts]
    old_router = fleet.authority.issue("old-router", ["router"])
    everywhere(trust_both)
    everywhere(lambda role: fleet.identities[role].take(new[role], ["tls.crt", "tls.key"]))
    everywhere(trust_the_new_one)
    fleet.cluster.attention[0].kill()
    fleet.cluster.attention[0].start()
    wait_serving(fleet.cluster.attention[0].address, credentials=fleet.identities["router"].credentials())
    with fleet.client() as client:
        wait_until(lambda: all(worker.ready for worker in client.load().workers), what="workers of the new authority")
        assert client.generate(ids=[5, 6, 7], max_new_tokens=4).ids
    with fleet.channel("attention-worker", old_router) as channel:
        assert code_of(channel, HEALTH) == grpc.StatusCode.UNAVAILABLE


def test_the_command_line_client(fleet, tmp_path):
    token_path = tmp_path / "token"
    token_path.write_text(TOKENS["alice"] + "\n")
    authority = f"--tls_ca={fleet.identities['router'].path('ca.crt')}"
    asked = ["generate", "--prompt=1", "--max_new_tokens=4", "--timeout=5s", f"--target={fleet.cluster.target}"]
    assert run_m1(*asked, authority, f"--token_file={token_path}").returncode == 0
    refused = run_m1(*asked, authority)
    assert refused.returncode != 0 and "authorization: Bearer TOKEN" in refused.stderr
    elsewhere = Authority(tmp_path / "elsewhere").certificate
    assert run_m1(*asked, f"--tls_ca={elsewhere}", f"--token_file={token_path}").returncode != 0
    assert run_m1(*asked, f"--token_file={token_path}").returncode != 0, "plaintext"
    named = run_m1(*asked, authority, f"--token_file={token_path}", "--tls_server_name=router.example")
    assert named.returncode != 0, "the certificate is of another name"
    token_path.write_text("two words")
    assert "wanted one token" in run_m1(*asked, authority, f"--token_file={token_path}").stderr
    assert "need it" in run_m1(*asked, "--tls_server_name=x").stderr


def test_the_bench_wants_a_token_and_tells_nobody(fleet, tmp_path):
    def bench(*flags):
        run = run_m1("bench", "serve", f"--target={fleet.cluster.target}", f"--tls_ca={fleet.identities['router'].path('ca.crt')}",
                     "--num_prompts=2", "--num_warmups=0", "--input_len=4", "--output_len=4", "--json", *flags)
        return run.returncode, run.stdout + run.stderr

    code, said = bench()
    assert code != 0 and "authorization: Bearer TOKEN" in said
    token_path = tmp_path / "token"
    for token, told in ((TOKENS["alice"], '"completed":2'), ("secret-of-nobody", "no longer valid")):
        token_path.write_text(token)
        code, said = bench(f"--token_file={token_path}")
        assert told in said and token not in said, said
        assert (code == 0) == (token == TOKENS["alice"])


def test_m1_token_makes_what_the_router_reads(fleet):
    made = run_m1("token", "--name=dora")
    token, line = made.stdout.splitlines()
    assert made.returncode == 0 and len(token) >= 43
    assert line + "\n" == token_line("dora", token)
    assert run_m1("token", "--name=dora").stdout != made.stdout
    refused = run_m1("token", "--name=a b")
    assert refused.returncode != 0 and '--name is "a b"' in refused.stderr
    replace_file(fleet.token_file, token_lines(TOKENS) + line + "\n")
    with fleet.channel("router") as channel:
        wait_until(lambda: code_of(channel, "/m1.v1.Inference/GetModelInfo", (("authorization", f"Bearer {token}"),)) ==
                   grpc.StatusCode.OK, what="dora")


def test_a_local_cluster_with_tls(stubs, tmp_path):
    everything = Authority(tmp_path).issue("all", ROLES)
    up = subprocess.Popen([os.path.join(BIN, "m1"), "up", f"--model={MODEL}", "--port=0", *everything.flags()],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = next(line for line in up.stdout if line.startswith("ready "))
        with Client(line.split()[1], credentials=everything.credentials(show=False)) as client:
            assert client.generate(ids=[5, 6, 7], max_new_tokens=4).ids
    finally:
        up.terminate()
        assert up.wait(20) == 0


@pytest.mark.parametrize("binary, flags", [
    ("m1-router", ["--attention_workers=127.0.0.1:9"]),
    ("m1-attention-worker", ["--expert_workers=inproc"]),
    ("m1-expert-worker", ["--shard=0/1"]),
])
def test_bad_flags_are_told_before_the_model_loads(fleet, tmp_path, binary, flags):
    role = binary.removeprefix("m1-")
    good = fleet.authority.issue(f"{role}-flags", [role])
    other = next(fleet.identities[other] for other in ROLES if other != role)
    expired = fleet.authority.issue(f"{role}-expired", [role], days=-1)
    elsewhere = Authority(tmp_path / "elsewhere").certificate
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "huge").write_bytes(b"x" * (1 << 20) + b"x")
    cert, key, authority = good.flags()
    cases = [
        (["--address=0.0.0.0"], "--address is 0.0.0.0"),
        (["--address=::"], "--insecure"),
        ([cert, key], "wanted all three or none"),
        ([authority], "wanted all three or none"),
        ([cert, key, f"--tls_ca={tmp_path}/none"], "No such file"),
        ([cert, key, f"--tls_ca={tmp_path}/garbage"], "--tls_ca: certificate 1 is no PEM"),
        ([f"--tls_cert={tmp_path}/huge", key, authority], "above 1048576 bytes"),
        ([f"--tls_cert={tmp_path}", key, authority], "not a regular file"),
        ([cert, other.flags()[1], authority], "is not the key of the certificate"),
        (other.flags(), f"no alternative name URI:spiffe://m1-serve/role/{role}"),
        (expired.flags(), "--tls_cert has expired"),
        ([cert, key, f"--tls_ca={elsewhere}"], "--tls_cert does not lead to an authority of --tls_ca"),
    ]
    if binary == "m1-router":
        cases += [([f"--token_file={tmp_path}/garbage"], "line 1"), (["--token_file=/dev/null"], "not a regular file")]
    for extra, message in cases:
        run = subprocess.run([os.path.join(BIN, binary), f"--model={MODEL}", "--port=0", *flags, *extra], capture_output=True,
                             text=True, timeout=120, check=False)
        assert run.returncode == 2 and message in run.stderr, (extra, run.returncode, run.stderr)
        assert "listening" not in run.stdout


def test_insecure_permits_every_address(stubs):
    server = Process("m1-expert-worker", f"--model={MODEL}", "--shard=0/1", "--address=0.0.0.0", "--insecure").start()
    try:
        wait_serving(f"127.0.0.1:{server.port}")
        assert "neither encrypted nor authenticated" in server.log()
    finally:
        server.stop()
