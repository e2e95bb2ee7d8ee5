"""Granian's worker processes, replaced without turning anybody away.

On Linux each of granian's workers would make a listening socket of its own, and whoever waits at that of a worker that
ends is turned away. Here the sockets outlive the workers: who waits at one is served by the next worker of its place.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from granian import _signals
from granian._granian import SocketHolder, WorkerSignal
from granian.server.mp import MPServer
from litestar.types import ASGIApp
from loguru import logger

from cdv_http.app import create_app

_ACCEPT_NO_MORE: Final = signal.SIGUSR1
_END: Final = (signal.SIGINT, signal.SIGTERM)
_LAST_REQUESTS_SECONDS: Final = 2.0  # ours: from a connection's acceptance until its first request is there
_LOOK_SECONDS: Final = 0.05
_COLLECT_AFTER: Final = 20_000  # ours: objects made and not yet freed; Python's default is 700


class Workers(MPServer):
    """Serves from `listeners`, one for each worker, which are bound and listen already. The same one twice is allowed.

    `prove`: raises if a worker started now could not serve.
    """

    def __init__(self, listeners: Sequence[socket.socket], *, prove: Callable[[], None], **options: Any) -> None:  # noqa: ANN401 - granian's
        super().__init__("cdv_http.app:create_app", **options)
        self._listeners = listeners
        self._prove = prove
        self.main_loop_interrupt: Any = _Interrupt()

    def replace_workers(self) -> None:
        """As SIGHUP does, and from any thread."""
        self.reload_signal = True
        self.main_loop_interrupt.set()

    def _init_shared_socket(self) -> None:
        for listener in self._listeners:
            listener.set_inheritable(True)

    def _drop_shared_socket(self) -> None:
        # Whoever comes while the last requests are answered is refused at once: nobody may hold a listener open.
        for worker in self.wrks:
            self._tell_to_accept_no_more(worker)
        for listener in self._listeners:
            listener.close()

    def shutdown(self, exit_code: int = 0) -> None:
        try:
            super().shutdown(exit_code)  # type: ignore[no-untyped-call]
        except SystemExit:
            # A worker that heard of the end before we could tell it, as by Ctrl-C, has not failed.
            if exit_code or not self.interrupt_signal:
                # Granian's own lines, which would say so, are turned off.
                logger.error("workers end by themselves as soon as they are started; the service ends")
                raise

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # noqa: ANN401, ARG002
        listener = self._listeners[idx]
        self._shd: Any = SocketHolder(listener.fileno(), False, self.backlog)  # type: ignore[call-arg]
        self._sso: Any = listener
        worker: Any = super()._spawn_worker(idx, target, partial(_worker_app, self._inherited(listener)))
        start = worker.start

        def start_deaf() -> None:
            # Until it knows what to do then (`_hear`), or it would do what this process does, or die.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_END, _ACCEPT_NO_MORE})
            try:
                start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        worker.start = start_deaf
        return worker

    def _respawn_workers(self, workers: Sequence[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:  # noqa: ANN401
        """Replace them one by one. Once the end of all is asked for, leave those that are there to `shutdown`."""
        for idx in workers:
            if self.interrupt_signal:
                break
            with suppress(ValueError):  # if it has crashed meanwhile, this is what is done about it
                self.interrupt_children.remove(idx)
            self.respawned_wrks[idx] = time.monotonic()
            old: Any = self.wrks[idx]
            if not old.is_alive():
                logger.error("worker {} ended by itself ({}); another takes its place", idx + 1, old.inner.exitcode)
            self.wrks[idx] = new = self._spawn_worker(idx, spawn_target, target_loader)
            new.start()
            self._wait(delay)
            if not self._end(old):
                self.wrks.append(old)
        self._remember()

    def _end(self, worker: Any) -> bool:  # noqa: ANN401 - granian's
        """Have the worker accept no more and end. Return False when the end of all is asked for before it has.

        Granian's way to end lets requests finish, but closes connections on which none has arrived yet: wait for those.
        """
        if self._tell_to_accept_no_more(worker):
            self._wait(_LAST_REQUESTS_SECONDS)
            worker.terminate()
            self._wait(self.workers_kill_timeout or 0, worker)
            if worker.is_alive():
                if self.interrupt_signal:
                    return False
                worker.kill()
        worker.join()
        return True

    def _wait(self, seconds: float, worker: Any = None) -> None:  # noqa: ANN401 - granian's
        """Wait so long, until that worker has ended, or until the end of all is asked for."""
        # Not an event's wait: another reload asked for meanwhile must not cut it short.
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.interrupt_signal and (worker is None or worker.is_alive()):
            time.sleep(_LOOK_SECONDS)

    def _inherited(self, listener: socket.socket) -> list[int]:
        """Return the listeners' numbers that a worker on this one has: by a fork, all of them."""
        forks = multiprocessing.get_start_method() == "fork"
        return sorted({each.fileno() for each in (self._listeners if forks else [listener])})

    def _tell_to_accept_no_more(self, worker: Any) -> bool:  # noqa: ANN401 - granian's
        """Return whether there was still somebody to tell."""
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, _ACCEPT_NO_MORE)
                return True
        return False

    def _reload(self, spawn_target: Any, target_loader: Any) -> None:  # noqa: ANN401 - granian's
        self.reload_signal = False
        self.main_loop_interrupt.clear()
        try:
            # A worker that cannot start would be taken for a crash, and end the service.
            self._prove()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end those that run
            logger.error("the workers are not replaced, those that run go on: {}", error)
            self._remember()
        else:
            logger.info("new workers take over; the old ones end when they have answered")
            self._respawn_workers(range(self.workers), spawn_target, target_loader, self.respawn_interval)

    def _remember(self) -> None:
        """Wake the main loop for what was asked for just before it said that it had heard everything."""
        if self.interrupt_signal or self.reload_signal or self.interrupt_children:
            self.main_loop_interrupt.set()


class _Interrupt:
    """An event that signal handlers set. In the midst of threading.Event's own work they would wait for themselves."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # its `put` may interrupt any other call of it

    def is_set(self) -> bool:
        return not self._queue.empty()

    def set(self) -> None:
        self._queue.put(None)

    def clear(self) -> None:
        with suppress(Empty):
            while True:
                self._queue.get_nowait()

    def wait(self) -> None:
        self._queue.get()
        self.set()


def _worker_app(listeners: Sequence[int]) -> ASGIApp:
    """Return what a worker serves, once it knows how to stop accepting. `listeners`: the sockets' numbers."""
    app = create_app(started=_keep_what_is_there)
    known = {listener: os.fstat(listener).st_ino for listener in listeners}

    def stop_accepting(*_: object) -> None:
        app.admission.closing = True
        _stop_accepting(known)

    signal.signal(_ACCEPT_NO_MORE, stop_accepting)
    _signals.set_loop_signals = _hear
    return app


def _hear(loop: asyncio.AbstractEventLoop) -> WorkerSignal:
    """Return what is set when the worker is told to end. It hears what it has been told since it was started.

    In granian's place, whose worker hangs when it is told twice: with Ctrl-C, and when systemd stops a service, all
    processes get the signal, and then the main process tells the workers.
    """
    told = WorkerSignal()
    end = cache(told.set)

    def hear(*_: object) -> None:
        # Not the loop's own handlers: between its start-up and its serving the loop stands still, and uvloop loses what
        # comes just then.
        with suppress(RuntimeError):  # the loop is closed, and the worker at its end anyway
            loop.call_soon_threadsafe(end)

    for number in _END:
        signal.signal(number, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_END, _ACCEPT_NO_MORE})
    return told


def _keep_what_is_there() -> None:
    """Have the garbage collector leave alone what lives as long as the worker, and look less often for the rest.

    Otherwise it goes through the 180,000 objects that the service consists of again and again, and every request waits
    for that. docs/adr/012-fewer-instructions.md has the figures.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)


def _stop_accepting(listeners: Mapping[int, int]) -> None:
    """Put a socket that nobody knows in the place of those that the next workers accept from.

    `listeners`: their inodes by number. A worker that is ending may have closed one, and its number may be another's.
    """
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setblocking(False)
        for listener, inode in listeners.items():
            with suppress(OSError):
                if os.fstat(listener).st_ino == inode:
                    os.dup2(deaf.fileno(), listener, inheritable=False)
