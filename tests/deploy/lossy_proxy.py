"""A TCP proxy on loopback whose wire can be cut: then nothing passes and nobody is told, as when a network drops packets."""

import contextlib
import socket
import threading


class LossyProxy:
    """`address` leads to `target` ("127.0.0.1:PORT") while the wire is whole."""

    def __init__(self, target: str):
        host, port = target.split(":")
        self._target = (host, int(port))
        self._whole = threading.Event()
        self._whole.set()
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._whole.wait()
                with contextlib.suppress(ConnectionError):
                    far = socket.create_connection(self._target)
                    for end in (near, far):
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets += [near, far]
                    for source, sink in ((near, far), (far, near)):
                        threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()
                    continue
                near.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                if self._closing:
                    return
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "LossyProxy":
        return self

    def __exit__(self, *_) -> None:
        self._closing = True
        self.mend()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
