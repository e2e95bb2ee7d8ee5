"""A stub target for tests: it responds as configured and records the requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], Any]  # status, headers, body: a JSON value, or bytes that are sent unchanged


class Stub:
    """`answer` responds to every request but /healthz, to which `health` responds. `requests`: the requests so far."""

    def __init__(self, answer: Callable[[str, str, bytes], Answer]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, str, bytes]] = []
        self.url = ""
        self.health: Callable[[], Answer] = lambda: (200, {"X-Correlation-Id": "c-1"}, {})


def refusal(status: int, code: str, **headers: str) -> Answer:
    """Return an error response that is well-formed by every law, whether or not it is the right response."""
    error = {"code": code, "message": "no", "correlationId": "c-1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"X-Correlation-Id": "c-1", **named}, {"error": error}


@contextmanager
def serving(answer: Callable[[str, str, bytes], Answer]) -> Iterator[Stub]:
    stub = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answered: Answer = (200, {"X-Correlation-Id": "c-1"}, {})
            if self.path == "/healthz":
                answered = stub.health()
            else:
                stub.requests.append((self.command, self.path, body))
                try:
                    answered = stub.answer(self.command, self.path, body)
                except ConnectionAbortedError:  # raised by a test to close the connection without a response
                    self.close_connection = True
                    return
            status, headers, value = answered
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            """Do not log requests."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.do)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
