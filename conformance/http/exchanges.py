"""What was said and answered in the current example, and the curl that says it again."""

from __future__ import annotations

import base64
import re
import shlex
import threading
from dataclasses import dataclass

import httpx

SHOWN_MAX = 12  # exchanges of a failure that are shown: the last ones
BODY_SHOWN_MAX = 4000  # characters
_SIGNED = re.compile(r"(https?://[^\s\"?]+/[^\s\"?]*)\?[^\s\"]*(?:[Ss]ignature|token|sig)=[^\s\"]*")
# Control characters, which a terminal obeys, and what no file or XML can hold: halves of pairs, and no characters.
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_TYPED = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Exchange:
    """A request and its answer. `speaker`: the DID whose ordinary token was sent, if one was."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    speaker: str
    answer: httpx.Response | None

    def curl(self) -> str:
        """Return a command for the shell; tokens as $TOKEN, with who they speak for."""
        lines = []
        command = ["curl", "-sS", "-i", "-X", self.method, shlex.quote(_without_signature(self.url))]
        if self.method == "HEAD":
            command[3:5] = ["-I"]
        for name, value in self.headers:
            if name.lower() in _NOT_TYPED and not (name.lower() == "content-length" and value != str(len(self.body))):
                continue  # curl says these itself, unless they are to be a lie
            if name.lower() == "authorization" and self.speaker:
                lines.append(f"# TOKEN: a token whose sub is {self.speaker}")
                command += ["-H", '"Authorization: Bearer $TOKEN"']
            else:
                command += ["-H", shlex.quote(f"{name}: {value}")]
        if self.body:
            text = _text(self.body)
            if len(self.body) > BODY_SHOWN_MAX:
                lines.append(f"# a body of {len(self.body)} bytes, which begins: {text or self.body[:60]!r:.200}")
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
        """Return the answer, shortened."""
        if self.answer is None:
            return "no answer"
        text = _without_signature(self.answer.text[:600]) if self.answer.content else ""
        return f"{self.answer.status_code} {text}".rstrip()


class Recorder:
    """Keeps the exchanges of the current example; several threads may speak at once."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Forget what was said: a new example begins."""
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
        head = [f"# after {left_out} earlier requests, left out here"] if left_out else []
        return "\n\n".join([*head, *(exchange.curl() for exchange in shown)])


# One run, one recorder: it stands for "the example under way".
RECORDER = Recorder()


def printable(text: str) -> str:
    """Return the text as every report can show it, whatever the target put into it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _text(body: bytes) -> str | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if _UNPRINTABLE.search(text) else text


def _without_signature(text: str) -> str:
    """Return the text with the queries of signed URLs cut off: whoever holds one may use it."""
    return _SIGNED.sub(r"\1?SIGNATURE", text)
