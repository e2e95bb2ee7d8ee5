"""A scripted object store, for responses that a real one gives rarely or never."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class ReceivedRequest:
    """A received request. `query`: name → single value. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """A response. A `body` in pieces is sent piece by piece, without Content-Length, until the client disconnects."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str) -> Answer:
    """Return an error response in S3's format."""
    body = f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
    return Answer(status, body, {"Content-Type": "application/xml"})


class ScriptedS3:
    """Responds to each request with `answer(request)`, at `url`. `requests`: all received, in order."""

    def __init__(self, answer: Callable[[ReceivedRequest], Answer], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        self.hung_up = threading.Event()  # set when a client disconnects before it has received the whole body
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = ReceivedRequest(self.command, parts.path, query, headers, body)
                store.requests.append(request)
                self.send(answer(request))

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do  # noqa: N815 - the base class looks for these names

            def send(self, answer: Answer) -> None:
                whole = isinstance(answer.body, bytes)
                pieces = [answer.body] if isinstance(answer.body, bytes) else answer.body
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if whole and "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))  # type: ignore[arg-type]
                self.end_headers()
                if self.command == "HEAD":
                    return
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                except OSError:
                    store.hung_up.set()
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Log nothing."""

        class HttpServer(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Log nothing: tests break connections on purpose."""

        self._server = HttpServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def trickling_body() -> Iterator[ScriptedS3]:
    """Serve responses whose body arrives a byte every 20 ms, for 20 s."""
    released = threading.Event()

    def body() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" "
            released.wait(0.02)

    with ScriptedS3(lambda _: Answer(200, body(), {"Content-Length": "1000"})) as server:
        try:
            yield server
        finally:
            released.set()
