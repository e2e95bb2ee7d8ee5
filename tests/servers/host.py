"""Where a server runs: the interface to start, stop, kill and pause it."""

from dataclasses import dataclass
from typing import Protocol


class NoServer(Exception):
    """This machine cannot provide the server; tests that need it are skipped with this message."""


class ServerFailed(Exception):
    """The server did not start or stop as it should; the message ends with the last lines of its log."""


class Host(Protocol):
    """Runs one server: `Process`, `Container` or `Remote`. Data and port outlive everything but `close`."""

    address: str
    port: int

    def start(self) -> None:
        """Start the server, without waiting until it is ready. Data of an earlier start is kept."""

    def stop(self) -> None:
        """Shut it down gracefully and wait until it has ended. Does nothing if it does not run."""

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL to all its processes) and wait until it has ended."""

    def pause(self) -> None:
        """Suspend it (SIGSTOP): connections stay open, but nothing responds."""

    def resume(self) -> None:
        """Resume it after `pause`."""

    def alive(self) -> bool: ...

    def log_tail(self) -> str:
        """Return the last lines of its log."""

    def close(self) -> None:
        """End it and remove its data. Closing twice is fine."""


@dataclass
class Remote:
    """A server named in the environment, which is used but never started, stopped or killed."""

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
