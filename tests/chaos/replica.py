"""A replica of the service in a separate process, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.leaks import log_file
from tests.servers.process import free_port

_START_SECONDS = 60.0
SERVE = "from cdv_http.cli import main; main()"


class Replica:
    """`cdv serve` with the given settings. Its port stays the same when it is restarted; its log is in `folder`.

    `program`: the Python code that runs the command.
    """

    def __init__(self, folder: Path, settings: dict[str, str], name: str = "replica", program: str = SERVE) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log_file(folder / f"{name}.log")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CDV_", "COV_"))}
        self._environment = {**inherited, **settings, "CDV_PORT": str(self.port)}
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            # In a new session, so that a kill reaches the workers too, as a power cut would.
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._program, "serve"],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, f"the service ended:\n{self.log.read_text()[-3000:]}"
            try:
                if httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()[-3000:]}")

    @property
    def pid(self) -> int:
        """The process id of the command; its workers are its children."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Terminate it; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=40)

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill it if it is still running."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
