"""A server program as child processes of the test run."""

import atexit
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import psutil

from tests.servers.host import NoServer, ServerFailed

STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.005
LOG_TAIL_BYTES = 4000
MEMORY = Path("/dev/shm")  # creates the hundreds of files of a database ten times as fast as a disk
MEMORY_ENOUGH_BYTES = 2 * 1024**3


class Identity(TypedDict, total=False):
    """The arguments that make `subprocess` start a child as another user."""

    user: int
    group: int
    extra_groups: list[int]


def unprivileged() -> Identity:
    """Return the identity for programs that refuse to run as root: `nobody` if we are root, else our own."""
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise NoServer("we are root, and there is no user `nobody` to run the server as") from error
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def new_directory(prefix: str, *, durable: bool, owner: Identity | None = None) -> Path:
    """Create an empty directory owned by `owner` (default: us), which is removed at exit.

    It is in memory if not `durable` and if there is room. It is not below pytest's, which other users cannot read.
    """
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=None if durable or not memory_has_room() else MEMORY))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    if owner:
        try:
            os.chown(directory, owner["user"], owner["group"])
        except OSError as error:  # root of a user namespace without other users
            raise NoServer(f"we are root, and cannot be user {owner['user']} here: {error}") from error
    return directory


def memory_has_room() -> bool:
    if not MEMORY.is_dir():
        return False
    space = os.statvfs(MEMORY)
    return space.f_bavail * space.f_frsize >= MEMORY_ENOUGH_BYTES and not space.f_flag & os.ST_NOEXEC


def program(name: str, wheel: str) -> Path:
    """Return the executable that a wheel installed next to our Python. Raises: NoServer: it is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise NoServer(f"{wheel} has no wheel for this platform, or is not installed")
    return path


def free_port() -> int:
    """Return a free loopback port outside the range of ephemeral ports.

    A client that connects to a port in that range while its server is down may get the same port as its own, and then
    is connected to itself.
    """
    while True:
        port = 15000 + secrets.randbelow(17000)  # not `random`, which Hypothesis seeds with the same value in every run
        with contextlib.closing(socket.socket()) as candidate, contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            return port


def run_to_end(arguments: Sequence[str | Path], *, directory: Path, identity: Identity | None = None) -> None:
    """Run a command in `directory` to its end. Raises: ServerFailed: it failed. NoServer: it could not be started."""
    try:
        done = subprocess.run(
            arguments, cwd=directory, env=environment(directory), capture_output=True, text=True, **identity or {}
        )
    except OSError as error:
        raise NoServer(f"{arguments[0]} cannot be run here: {error}") from error
    if done.returncode != 0:
        raise ServerFailed(f"{arguments[0]} exited with {done.returncode}: {done.stdout}{done.stderr}")


def environment(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a server, without the variables of this machine (PGHOST, proxies, credentials)."""
    return {"PATH": os.defpath, "HOME": str(directory), "TMPDIR": str(directory), "TZ": "UTC", **(extra or {})}


def ended(process: psutil.Process) -> bool:
    """Return whether the process has released its resources. An orphan may remain a zombie until init reaps it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def has_stopped(process: psutil.Process) -> bool:
    """Return whether none of the process's threads runs: they are suspended, or have ended."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        if process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            return False
        # Its status is that of its first thread.
        threads = [
            stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process.pid}/task").glob("*/stat")
        ]
        return all(state in "TtZX" for state in threads)
    return True


class Process:
    """A `Host`: a program that listens on a loopback port and has its data, log and home in one directory."""

    address = "127.0.0.1"

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        port: int,
        directory: Path,
        identity: Identity | None = None,
        variables: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.port = port
        self.directory = directory
        self._arguments = arguments
        self._identity = identity or {}
        self._environment = environment(directory, variables)
        self._stop_signal = stop_signal
        self._log = directory / "server.log"
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._arguments,
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach the server: fixtures stop it in order
                **self._identity,
            )

    def stop(self) -> None:
        if self._child is None:
            return
        self.resume()
        self._child.send_signal(self._stop_signal)
        try:
            self._child.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ServerFailed(
                f"{self._arguments[0]} did not stop in {STOP_TIMEOUT_SECONDS} s\n{self.log_tail()}"
            ) from error
        self._child = None

    def kill(self) -> None:
        if self._child is None:
            return
        self.pause()  # so that it can neither fork nor react while its children are killed
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._child.wait()
        while not all(ended(process) for process in family):
            time.sleep(POLL_SECONDS)
        self._child = None

    def pause(self) -> None:
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        # The signal only asks for it: until its threads have stopped, a program may respond.
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while not all(map(has_stopped, family)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def resume(self) -> None:
        for process in reversed(self._family()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _family(self) -> list[psutil.Process]:
        """Return the program's process and its descendants, itself first; empty if it has ended."""
        if self._child is None or self._child.poll() is not None:
            return []
        parent = psutil.Process(self._child.pid)
        return [parent, *parent.children(recursive=True)]

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def log_tail(self) -> str:
        if not self._log.exists():
            return "(no log)"
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def close(self) -> None:
        self.kill()
        atexit.unregister(self.close)
        shutil.rmtree(self.directory, ignore_errors=True)
