"""What deploy/failures.md promises when a router dies: its streams end with UNAVAILABLE, and a client goes on elsewhere."""

import signal

import grpc
import pytest

ANSWER_TOKENS = 300
CUT = 60


@pytest.fixture
def two_routers(stubs):
    from cluster import Cluster, Process, wait_serving
    with Cluster("models/tiny", expert_workers=2) as cluster:
        second = Process("m1-router", "--model=models/tiny", f"--attention_workers={cluster.attention[0].address}").start()
        try:
            wait_serving(second.address)
            yield cluster.router, second
        finally:
            second.stop()


@pytest.mark.parametrize("temperature", [0, 1], ids=["greedy", "seeded"])
def test_a_client_resumes_on_another_router(two_routers, temperature):
    from client import Client
    doomed, other = two_routers
    with Client(doomed.address) as first, Client(other.address) as second:
        sampling = {"temperature": temperature, "seed": 11, "ignore_eos": True, "presence_penalty": 0.5}
        prompt = first.generate(chat=[("user", "764 + 621")], max_new_tokens=0, **sampling)
        whole = second.generate(chat=[("user", "764 + 621")], max_new_tokens=ANSWER_TOKENS, **sampling)
        assert prompt.prompt_token_count == whole.prompt_token_count and len(whole.ids) == ANSWER_TOKENS

        request = first.request(chat=[("user", "764 + 621")], max_new_tokens=ANSWER_TOKENS, **sampling)
        request.output.prompt_token_ids = True
        prompt_ids, ids, logprobs = [], [], []
        stream = first.inference.Generate(request, timeout=60)
        with pytest.raises(grpc.RpcError) as lost:
            for response in stream:
                prompt_ids += response.prompt.token_ids
                ids += [token.id for token in response.delta.tokens]
                logprobs += [token.logprob for token in response.delta.tokens]
                if len(ids) >= CUT and doomed.running():
                    doomed.kill()
        assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
        assert CUT <= len(ids) < ANSWER_TOKENS, "the answer was over before the router died"

        rest = second.generate(ids=[*prompt_ids, *ids], generated_prompt_token_count=len(ids),
                               max_new_tokens=ANSWER_TOKENS, **sampling)
        assert ids + rest.ids == whole.ids
        assert logprobs + rest.logprobs == whole.logprobs


def test_a_draining_router_ends_what_it_has(two_routers):
    """SIGTERM: running answers are finished, new ones refused with UNAVAILABLE so that a client asks another router."""
    from client import Client
    from cluster import wait_until
    leaving, other = two_routers
    with Client(leaving.address) as first, Client(other.address) as second:
        request = first.request(chat=[("user", "764 + 621")], temperature=0, ignore_eos=True, max_new_tokens=ANSWER_TOKENS)
        clients, answers = first.send_all_in_background([request])
        wait_until(lambda: first.load().running_request_count > 0, what="the request runs")
        leaving.signal(signal.SIGTERM)
        refused = None
        while refused is None and clients.is_alive():
            try:
                first.generate(ids=[1, 2], max_new_tokens=1)
            except grpc.RpcError as error:
                refused = error.code()
        clients.join()
        assert leaving.wait() == 0
        assert refused in (None, grpc.StatusCode.UNAVAILABLE)
        assert answers[0].key() == second.send(request).key()
