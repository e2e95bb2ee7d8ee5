"""A shell that runs the blocks of a page one after the other, as if they were pasted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.http.running import CDV, environment
from tests.leaks import log_file
from tests.servers.process import free_port

ADDRESS = "127.0.0.1:8080"
BLOCK_SECONDS = 60
POLL_SECONDS = 0.01
# The vault that a page starts in a second terminal: here in the background, with the variables exported so far.
_SERVE = """
if [ -n "${{server:-}}" ]; then kill "$server"; wait "$server" || true; fi
{command} >>server.log 2>&1 & server=$!
until curl -fsS "http://127.0.0.1:$CDV_PORT/readyz" >/dev/null 2>&1; do kill -0 "$server"; sleep 0.05; done
"""
_SERVING_COMMANDS = {"make run": ".venv/bin/cdv serve", ".venv/bin/cdv serve": ".venv/bin/cdv serve"}
_SERVING_PREFIX = ".venv/bin/granian "


class Shell:
    """One shell in `folder`, which looks like our repository after `make run`. Variables persist from block to block.

    The vault's address is replaced by that of this shell's vault, and each key of `addresses` by its value.
    """

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(CDV.parents[1])
        self._addresses = addresses
        self._log = folder / "shell.log"
        self.server_log = log_file(folder / "server.log")
        port = str(free_port())
        self._addresses = {ADDRESS: f"127.0.0.1:{port}", **addresses}
        self._done = folder / "done"
        settings = {"CDV_PORT": port, "PYTHONPATH": ""}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh"],
                env=environment(folder / ".cdv", **settings),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def local(self, code: str) -> str:
        """Return the code with this shell's addresses in it."""
        for printed, real in self._addresses.items():
            code = code.replace(printed, real)
        return code

    def serve(self) -> None:
        """Serve a vault in the background."""
        self.run("make run")

    def run(self, code: str) -> str:
        """Run the block to its end; return what it printed. It must succeed as a whole."""
        lines = [_in_the_background(line.strip()) or line for line in self.local(code).splitlines()]
        script = self.folder / "block.sh"
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        before = len(self.output())
        assert self._process.stdin is not None
        self._process.stdin.write(b"set -e\n. ./block.sh\ntouch done\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + BLOCK_SECONDS
        while not self._done.exists():
            time.sleep(POLL_SECONDS)
            assert self._process.poll() is None, f"{code}\n{self.output()[before:]}"
            assert time.monotonic() < deadline, f"not done in {BLOCK_SECONDS} s:\n{code}\n{self.output()[before:]}"
        self._done.unlink()
        return self.output()[before:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass


def _in_the_background(line: str) -> str | None:
    """Return what starts the server that the line starts, and waits for it; None if it is another command."""
    command = line if line.startswith(_SERVING_PREFIX) else _SERVING_COMMANDS.get(line)
    return None if command is None else _SERVE.format(command=command)
