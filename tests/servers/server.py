"""The common interface of the servers for tests, whichever way they run."""

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.host import Host, ServerFailed

READY_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.02


class Server(ABC):
    """A real server. As a context manager, it is started and ready when the block begins, and is removed at its end.

    Data and port survive `stop`, `kill` and `restart`. `start`, `restart` and `resume` return when the server is ready.
    Raises: NoServer: the operation is not possible here, for example to kill a server that is not ours. ServerFailed:
    it did not start.
    """

    LABEL: ClassVar[str]
    VARIABLE: ClassVar[str]  # the environment variable that names a running server
    IMAGE: ClassVar[str]  # the official Docker image
    WHEEL: ClassVar[str]  # the package of the dev group that contains the program

    def __init__(self, host: Host) -> None:
        self.host = host

    @classmethod
    @abstractmethod
    def from_environment(cls) -> Self | None:
        """Return the server that the environment names; None if it names none."""

    @classmethod
    @abstractmethod
    def in_docker(cls, *, durable: bool = True) -> Self:
        """Return a new server in a container of the official image."""

    @classmethod
    @abstractmethod
    def from_wheel(cls, *, durable: bool = True) -> Self:
        """Return a new server whose program is from a wheel. Not `durable`: it may skip syncing to disk."""

    @classmethod
    @abstractmethod
    def require_wheel(cls) -> None:
        """Raises: NoServer: the wheel is not installed."""

    @abstractmethod
    def probe(self) -> str | None:
        """Return None if the server is ready, else what is wrong."""

    def start(self) -> None:
        self.host.start()
        self._wait_until_it_answers()

    def stop(self) -> None:
        self.host.stop()

    def kill(self) -> None:
        self.host.kill()

    def restart(self) -> None:
        self.host.stop()
        self.start()

    def pause(self) -> None:
        self.host.pause()

    def resume(self) -> None:
        self.host.resume()
        self._wait_until_it_answers()

    def close(self) -> None:
        """Stop it and remove its data."""
        self.host.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while (problem := self.probe()) is not None:
            if not self.host.alive():
                raise ServerFailed(f"{self.LABEL} ended instead of answering: {problem}\n{self.host.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.LABEL} did not answer within {READY_TIMEOUT_SECONDS} s: {problem}\n{self.host.log_tail()}"
                )
            time.sleep(POLL_SECONDS)
