"""Certificates, made with the openssl command, and tokens for tests; and what a call that shows them ends with.

    authority = Authority(folder)
    router = authority.issue("router", roles=["router"])
    Process("m1-router", *router.flags(), ...)
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import grpc


def openssl(*arguments, **kwargs):
    run = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, **kwargs)
    assert run.returncode == 0, f"openssl {arguments}: {run.stderr}"
    return run.stdout


def new_key(path):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def token_line(name, token, admin=False):
    """Of a router's --token_file."""
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()}{' admin' if admin else ''}\n"


def code_of(channel, method, metadata=()):
    """What a call with an empty message ends with."""
    call = channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)
    try:
        for _ in call(iter([b""]), metadata=metadata, timeout=15):
            pass
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


def replace_file(path, content):
    """At once, as mv does it: nobody reads half of it."""
    next_path = f"{path}.next"
    with open(next_path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.replace(next_path, path)


class Identity:
    """tls.crt, tls.key and ca.crt in one folder, as a Kubernetes Secret is mounted."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def path(self, name):
        return self.folder / name

    def text(self, name):
        return self.path(name).read_bytes()

    def flags(self):
        return [f"--tls_cert={self.path('tls.crt')}", f"--tls_key={self.path('tls.key')}", f"--tls_ca={self.path('ca.crt')}"]

    def serial(self):
        return openssl("x509", "-in", self.path("tls.crt"), "-noout", "-serial").strip()

    def take(self, other, names=("tls.crt", "tls.key", "ca.crt")):
        """Replaces files by those of another identity, each at once."""
        for name in names:
            replace_file(self.path(name), other.path(name).read_bytes())

    def credentials(self, token=None, show=True):
        """Of gRPC: TLS with this authority, this certificate if `show`, and a token."""
        channel = grpc.ssl_channel_credentials(self.text("ca.crt"), *((self.text("tls.key"), self.text("tls.crt")) if show else ()))
        if token is None:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(token))


class Authority:
    """Its name is the folder's: of two authorities with one name OpenSSL may try the wrong one alone."""

    def __init__(self, folder, days=30):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key, self.certificate = self.folder / "ca.key", self.folder / "ca.crt"
        new_key(self.key)
        openssl("req", "-x509", "-key", self.key, "-out", self.certificate, "-subj", f"/CN={self.folder.name}", "-days", days)

    def issue(self, name, roles=(), hosts=("IP:127.0.0.1",), days=10):
        """A certificate with a new key, in a folder of this name."""
        identity = Identity(self.folder / name)
        identity.folder.mkdir(exist_ok=True)
        new_key(identity.path("tls.key"))
        names = [*hosts, *(f"URI:spiffe://m1-serve/role/{role}" for role in roles)]
        with tempfile.NamedTemporaryFile("w", suffix=".cnf") as extensions:
            extensions.write(f"subjectAltName={','.join(names)}\n")
            extensions.flush()
            request = openssl("req", "-new", "-key", identity.path("tls.key"), "-subj", f"/CN={name}")
            openssl("x509", "-req", "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                    "-extfile", extensions.name, "-out", identity.path("tls.crt"), input=request)
        shutil.copy(self.certificate, identity.path("ca.crt"))
        return identity
