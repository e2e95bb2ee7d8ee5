"""Where a server runs, and what can be done to it there."""

from dataclasses import dataclass
from typing import Protocol


class NoServer(Exception):
    """This machine cannot provide the server; tests that need it are skipped with this message."""


class ServerFailed(Exception):
    """The server should have run and did not; the message ends with the last lines of its log."""


class Host(Protocol):
    """Runs one server: `Process`, `Container` or `Remote`. Data and port outlive everything but `close`."""

    address: str
    port: int

    def start(self) -> None:
        """Begin to run it; it may not answer yet. Data of an earlier start is kept."""

    def stop(self) -> None:
        """Let it shut down in good order, and wait until it has. Nothing if it does not run."""

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL to all its processes), and wait until it is gone."""

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let it go on from where it was paused."""

    def alive(self) -> bool: ...

    def log_tail(self) -> str:
        """The last lines it logged."""

    def close(self) -> None:
        """End it and remove its data. Closing twice is fine."""


@dataclass
class Remote:
    """A server named in the environment: used, never started or harmed."""

    address: str
    port: int

    def start(self) -> None:
        pass

    def stop(self) -> None:
        raise NoServer(f"the server at {self.address}:{self.port} is not ours to stop")

    kill = pause = resume = stop

    def alive(self) -> bool:
        return True

    def log_tail(self) -> str:
        return f"(the log of {self.address}:{self.port} is not ours to read)"

    def close(self) -> None:
        pass
