"""An HTTP server on the loopback that serves a catalogue, correctly or with the faults of a test."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CatalogueServer:
    """Serves `files` by path, with ETags. `misbehave`, if set, answers in place of that, given the handler."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, If-None-Match
        self.misbehave: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.url = ""

    def publish(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def paths(self) -> list[str]:
        """Return the paths requested since the last call."""
        requested = [path for path, _ in self.requests]
        self.requests.clear()
        return requested

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        self.requests.append((path, handler.headers.get("If-None-Match")))
        if self.misbehave is not None:
            self.misbehave(handler)
            return
        body = self.files.get(path)
        if body is None:
            handler.send_error(404)
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        send(handler, body, ETag=etag)


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def catalogue_server() -> Iterator[CatalogueServer]:
    state = CatalogueServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                state.answer(self)
            except OSError:
                self.close_connection = True  # the client has disconnected

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
