"""HTTP servers that a run provides for its target: an issuer's key set, and a schema catalogue."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conformance.http.tokens import Key


class Documents:
    """JSON documents by path. `down`: answer every request with 503. `request_counts`: requests by path."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.request_counts: dict[str, int] = {}
        self.down = False
        self.lock = threading.Lock()

    def respond(self, path: str) -> tuple[int, bytes]:
        with self.lock:
            self.request_counts[path] = self.request_counts.get(path, 0) + 1
            if self.down:
                return 503, b"{}"
            document = self.documents.get(path)
        return (200, json.dumps(document).encode()) if document is not None else (404, b"{}")


class Issuer(Documents):
    """Publishes its key set (JWKS)."""

    PATH = "/.well-known/jwks.json"

    def publish(self, *keys: Key, wrapped: bool = False) -> None:
        """Replace the key set. `wrapped`: publish {data: {keys}} instead of {keys}."""
        bare = {"keys": [key.jwk() for key in keys]}
        with self.lock:
            self.documents[self.PATH] = {"data": bare} if wrapped else bare

    def fetches(self) -> int:
        with self.lock:
            return self.request_counts.get(self.PATH, 0)


@contextmanager
def serving(documents: Documents, port: int) -> Iterator[str]:
    """Serve on the loopback interface until the block ends; yield the URL. Port 0: any free port. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = documents.respond(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            """Do not log requests."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
