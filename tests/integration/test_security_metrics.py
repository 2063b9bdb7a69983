"""What processes with TLS and tokens show of it: the end of their certificate, its reloads, calls that were denied."""

import calendar
import subprocess
import time

import grpc
import pytest

from certificates import Authority, code_of, replace_file, token_line
from cluster import Process, free_ports, wait_until
from prometheus import get, sample

MODEL = "--model=models/tiny"
TOKEN = "secret"
GENERATE = "/m1.v1.Inference/Generate"
EXPIRY = "m1_tls_certificate_expiry_timestamp_seconds"
AUTHORITY_EXPIRY = "m1_tls_authority_expiry_timestamp_seconds"


class Shown:
    """A server with TLS, and what it shows."""

    def __init__(self, name, identity, *flags):
        self.port = free_ports(1)[0]
        self.tokens = None
        self.process = Process(name, MODEL, f"--metrics_port={self.port}", *identity.flags(), *flags)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        assert self.process.stop() == 0

    def value(self, name, **labels):
        return sample(get(self.port, "/metrics")[1], name, **labels)

    def code_of(self, method, identity, token=None, show=True):
        with grpc.secure_channel(self.process.address, identity.credentials(token, show)) as channel:
            return code_of(channel, method).name


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("metrics") / "authority")


@pytest.fixture(scope="module")
def router(authority, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(token_line("alice", TOKEN), encoding="utf-8")
    with Shown("m1-router", authority.issue("router", ["router"]), "--attention_workers=127.0.0.1:9",
               f"--token_file={tokens}") as shown:
        shown.tokens = tokens
        yield shown


def end_of(certificate):
    text = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-enddate", "-dateopt", "iso_8601"],
                          capture_output=True, text=True, check=True).stdout
    return calendar.timegm(time.strptime(text.strip(), "notAfter=%Y-%m-%d %H:%M:%SZ"))


def test_denied_calls_are_counted_by_reason(router, authority):
    stranger = authority.issue("client")
    for _ in range(2):
        assert router.code_of(GENERATE, stranger, show=False) == "UNAUTHENTICATED"
    for _ in range(3):
        assert router.code_of(GENERATE, stranger, "wrong", show=False) == "UNAUTHENTICATED"
    assert router.code_of("/m1.v1.Control/GetLoad", stranger, TOKEN, show=False) == "PERMISSION_DENIED"
    assert router.value("m1_rpc_denied_total", reason="no_token") == 2
    assert router.value("m1_rpc_denied_total", reason="bad_token") == 3
    assert router.value("m1_rpc_denied_total", reason="wrong_role") == 1


def test_calls_are_counted_by_method_and_code(router, authority):
    stranger = authority.issue("caller")
    assert router.code_of(GENERATE, stranger, TOKEN, show=False) == "INVALID_ARGUMENT"
    wait_until(lambda: router.value("m1_rpc_total", method="m1.v1.Inference/Generate", code="INVALID_ARGUMENT") == 1)
    for index in range(300):  # whatever a client calls: one series
        assert router.code_of(f"/m1.v1.Inference/Made{index}\\\"up", stranger, TOKEN, show=False) == "UNIMPLEMENTED"
    for spelling in ("/m1.v1.Inference.Generate", "//m1.v1.Inference/Generate", "/m1.v1.Inference/Generate/", "/m1.v1/Inference.Generate"):
        assert router.code_of(spelling, stranger, TOKEN, show=False) == "UNIMPLEMENTED"
    wait_until(lambda: router.value("m1_rpc_total", method="other") == 304)
    series = [line for line in get(router.port, "/metrics")[1].splitlines() if line.startswith("m1_rpc_total{")]
    assert len(series) <= 4, series


def test_a_wrong_role_is_counted(authority):
    with Shown("m1-expert-worker", authority.issue("expert-worker", ["expert-worker"])) as worker:
        router = authority.issue("a-router", ["router"])
        assert worker.code_of("/m1.v1.ExpertExchange/Describe", router) == "PERMISSION_DENIED"
        assert worker.value("m1_rpc_denied_total", reason="wrong_role") == 1
        assert worker.value("m1_rpc_total") == 0


def test_certificates_and_reloads(authority):
    identity = authority.issue("reloaded", ["expert-worker"])
    later = authority.issue("later", ["expert-worker"], days=20)
    with Shown("m1-expert-worker", identity) as worker:
        assert worker.value(EXPIRY) == end_of(identity.path("tls.crt"))
        assert worker.value(AUTHORITY_EXPIRY) == end_of(authority.certificate)
        assert worker.value("m1_tls_reloads_total") == 0
        identity.take(later)
        wait_until(lambda: worker.value("m1_tls_reloads_total", result="ok") >= 1)
        wait_until(lambda: worker.value(EXPIRY) == end_of(later.path("tls.crt")))
        reloads = worker.value("m1_tls_reloads_total", result="ok")
        identity.path("tls.crt").write_text("no certificate", encoding="utf-8")
        wait_until(lambda: worker.value("m1_tls_files_rejected") == 1)
        assert worker.value("m1_tls_reloads_total", result="error") >= 1
        assert worker.value("m1_tls_reloads_total", result="ok") == reloads
        assert worker.value(EXPIRY) == end_of(later.path("tls.crt"))
        identity.take(later)
        wait_until(lambda: worker.value("m1_tls_files_rejected") == 0)


def test_the_authority_is_the_one_that_issued_the_certificate(authority, tmp_path):
    """While an authority is replaced there are two, and the one that is left may end."""
    identity = authority.issue("moves", ["expert-worker"])
    successor = Authority(tmp_path / "successor", days=20)
    new = successor.issue("moves", ["expert-worker"])
    with Shown("m1-expert-worker", identity) as worker:
        identity.take(new, ["tls.crt", "tls.key"])  # before its authority is known
        wait_until(lambda: worker.value("m1_tls_files_rejected") == 1)
        assert worker.value(AUTHORITY_EXPIRY) == end_of(authority.certificate)
        new.path("ca.crt").write_bytes(authority.certificate.read_bytes() + successor.certificate.read_bytes())
        identity.take(new, ["ca.crt"])
        wait_until(lambda: worker.value("m1_tls_files_rejected") == 0)
        assert worker.value(AUTHORITY_EXPIRY) == end_of(successor.certificate) < end_of(authority.certificate)


def test_reloads_of_tokens(router, authority):
    """Last: nobody gets in at its end."""
    stranger = authority.issue("holder")

    def write(text):
        replace_file(router.tokens, text)

    def rejected():
        return router.value("m1_token_file_rejected")

    assert router.value("m1_token_reloads_total") == 0 and rejected() == 0
    write("alice nonsense\n")
    wait_until(lambda: rejected() == 1)
    assert router.value("m1_token_reloads_total", result="error") == 1
    assert router.code_of(GENERATE, stranger, TOKEN, show=False) == "INVALID_ARGUMENT", "what was valid stays"
    router.tokens.unlink()
    wait_until(lambda: router.value("m1_token_reloads_total", result="error") == 2)
    assert rejected() == 1
    write("# alice left\n")
    wait_until(lambda: router.value("m1_token_reloads_total", result="ok") == 1)
    assert rejected() == 0
    assert router.code_of(GENERATE, stranger, TOKEN, show=False) == "UNAUTHENTICATED"
