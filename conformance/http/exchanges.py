"""Requests and responses of the current example, and curl commands that repeat them."""

from __future__ import annotations

import base64
import re
import shlex
import threading
from dataclasses import dataclass

import httpx

SHOWN_MAX = 12  # exchanges shown for a failure: the last ones
BODY_SHOWN_MAX = 4000  # characters
_SIGNED = re.compile(r"(https?://[^\s\"?]+/[^\s\"?]*)\?[^\s\"]*(?:[Ss]ignature|token|sig)=[^\s\"]*")
# Control characters, which a terminal would execute, and what XML or UTF-8 cannot hold: surrogates and non-characters.
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SET_BY_CURL = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Exchange:
    """A request and its response. `subject`: the DID whose ordinary token was sent; empty if none was.

    `response`: None if the connection was closed without one.
    """

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    subject: str
    response: httpx.Response | None

    def curl(self) -> str:
        """Return a shell command, with $TOKEN for ordinary tokens and a comment that names their subject."""
        lines = []
        command = ["curl", "-sS", "-i", "-X", self.method, shlex.quote(_without_signature(self.url))]
        if self.method == "HEAD":
            command[3:5] = ["-I"]
        for name, value in self.headers:
            if name.lower() in _SET_BY_CURL and not (name.lower() == "content-length" and value != str(len(self.body))):
                continue  # curl sets these itself; a deliberately wrong Content-Length is kept
            if name.lower() == "authorization" and self.subject:
                lines.append(f"# TOKEN is a token whose sub is {self.subject}")
                command += ["-H", '"Authorization: Bearer $TOKEN"']
            else:
                command += ["-H", shlex.quote(f"{name}: {value}")]
        if self.body:
            text = _text(self.body)
            if len(self.body) > BODY_SHOWN_MAX:
                lines.append(
                    f"# the file body: {len(self.body)} bytes, which begin with {text or self.body[:60]!r:.200}"
                )
                command += ["--data-binary", "@body"]
            elif text is None:
                lines.append(f"echo {base64.b64encode(self.body).decode()} | base64 -d > body")
                command += ["--data-binary", "@body"]
            else:
                command += ["--data-binary", shlex.quote(text)]
        lines.append(" ".join(command))
        lines += [f"# {line}" for line in self.outcome().splitlines()]
        return "\n".join(lines)

    def outcome(self) -> str:
        """Return the status and the beginning of the body."""
        if self.response is None:
            return "the connection was closed without a response"
        text = _without_signature(self.response.text[:600]) if self.response.content else ""
        return f"{self.response.status_code} {text}".rstrip()


class Recorder:
    """Records the exchanges of the current example. Thread-safe."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Drop what was recorded: a new example begins."""
        with self._lock:
            self._exchanges = []

    def add(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.append(exchange)

    def script(self) -> str:
        """Return the last exchanges as a shell script."""
        with self._lock:
            shown = self._exchanges[-SHOWN_MAX:]
            left_out = len(self._exchanges) - len(shown)
        head = [f"# {left_out} earlier requests of this example are not shown"] if left_out else []
        return "\n\n".join([*head, *(exchange.curl() for exchange in shown)])


# One recorder per run: a run tries one example at a time.
RECORDER = Recorder()


def printable(text: str) -> str:
    """Return the text without characters that some report format cannot show, whatever the target sent."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _text(body: bytes) -> str | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if _UNPRINTABLE.search(text) else text


def _without_signature(text: str) -> str:
    """Return the text without the queries of signed URLs, which grant access to anyone who has them."""
    return _SIGNED.sub(r"\1?SIGNATURE", text)
