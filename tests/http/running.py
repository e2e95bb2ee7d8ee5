"""The service under test as a listening process, and requests to it as raw bytes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdv_adapters.container import local_issuer
from cdv_adapters.settings import Settings
from cdv_core.domain.identifiers import Did
from cdv_core.domain.times import parse_time
from tests.leaks import log_file
from tests.servers.process import free_port

CDV = Path(sys.executable).with_name("cdv")
START_SECONDS = 60  # for a busy machine; usually it takes one
STOP_SECONDS = 40


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Return an environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CDV_", "PORT", "OTEL_"))}
    plenty = {"CDV_RATE_LIMIT_WRITES": "1000000/minute", "CDV_RATE_LIMIT_READS": "1000000/minute"}
    return {**kept, **plenty, "CDV_DATA_DIR": str(data_dir), **settings}


class RunningVault:
    """A `cdv serve` process. `log`: its output. `tls`: the client's context for a service with TLS."""

    def __init__(self, data_dir: Path, tls: ssl.SSLContext | None = None, /, **settings: str) -> None:
        self.data_dir = data_dir
        self._tls = tls
        self.port = free_port()
        self._log = log_file(data_dir.parent / f"{data_dir.name}.log")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [CDV, "serve", "--port", str(self.port)],
                env=environment(data_dir, **settings),
                cwd=data_dir.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    @property
    def base(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def token(self, did: str) -> str:
        issuer = local_issuer(Settings.embedded(self.data_dir))
        return issuer.issue(Did(did), 10**8, parse_time("2026-01-01T00:00:00Z", "now"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code. SIGINT is sent to the process group, as Ctrl-C does."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End the process and its workers as a crash would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP_SECONDS)

    def connect(self, timeout: float = 20) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout)
        return self._tls.wrap_socket(connection, server_hostname="127.0.0.1") if self._tls else connection

    def exchange(self, *parts: bytes, then_close: bool = False) -> list[Answer]:
        """Send bytes over one connection and return every response until the server closes it.

        `then_close`: half-close when all is sent, like a client that died. The last request should send
        `Connection: close`.
        """
        with self.connect() as connection:
            with suppress(OSError):  # it may refuse and close before all is sent
                for part in parts:
                    connection.sendall(part)
                if then_close:
                    with suppress(OSError):  # the server may have closed it already
                        connection.shutdown(socket.SHUT_WR)
            return list(_answers(connection))

    def http_connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=START_SECONDS, context=self._tls)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                connection = self.http_connection()
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                assert self.process.poll() is None, self.log
            finally:
                connection.close()
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)


class Answer:
    """One response, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status_code = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.content = response.read()
        self.text = self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def _answers(connection: socket.socket) -> Iterable[Answer]:
    file = connection.makefile("rb")
    while _has_more(file):
        response = http.client.HTTPResponse(_File(file))  # type: ignore[arg-type]
        response.begin()
        yield Answer(response)


def _has_more(file: Any) -> bool:
    try:
        return bool(file.peek(1))
    except ConnectionError:  # it was closed with unread request bytes
        return False


class _File:
    """The part of a socket that HTTPResponse uses; keeps the connection open between two responses."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, *_: object) -> Any:
        return _Open(self._file)


class _Open:
    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass
