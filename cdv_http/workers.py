"""Granian's worker processes, replaced without refusing a connection.

On Linux each of granian's workers opens a listening socket of its own, and when a worker ends, the connections in that
socket's backlog are reset. Here the listening sockets outlive the workers: the next worker on a socket accepts them.
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

_STOP_ACCEPTING_SIGNAL: Final = signal.SIGUSR1
_SHUTDOWN_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LAST_REQUESTS_SECONDS: Final = 2.0  # ours: from accepting a connection until its first request has arrived
_POLL_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 5.0  # ours
_GC_THRESHOLD: Final = 20_000  # ours: objects allocated and not yet freed; Python's default is 700


class Workers(MPServer):
    """Serves on `listeners`, one per worker, which are already listening. Workers may share one.

    `check_startup`: raises if a worker that is started now could not serve.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        check_startup: Callable[[], None],
        **options: Any,  # noqa: ANN401 - granian's
    ) -> None:
        super().__init__("cdv_http.app:create_app", **options)
        self._listeners = listeners
        self._check_startup = check_startup
        self.main_loop_interrupt: Any = _Interrupt()

    def replace_workers(self) -> None:
        """Replace all workers, as on SIGHUP. May be called from any thread."""
        self.reload_signal = True
        self.main_loop_interrupt.set()

    def _init_shared_socket(self) -> None:
        for listener in self._listeners:
            listener.set_inheritable(True)

    def _drop_shared_socket(self) -> None:
        # While the last requests are served, new connections must be refused: no process may keep a listener open.
        for worker in self.wrks:
            self._tell_to_stop_accepting(worker)
        for listener in self._listeners:
            listener.close()

    def shutdown(self, exit_code: int = 0) -> None:
        try:
            super().shutdown(exit_code)  # type: ignore[no-untyped-call]
        except SystemExit:
            # A worker that got the shutdown signal before this process forwarded it, as with Ctrl-C, has not failed.
            if exit_code or not self.interrupt_signal:
                # Granian's own log lines about this are disabled.
                logger.error("the workers exit as soon as they are started; the service stops (see the errors above)")
                raise

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # noqa: ANN401, ARG002
        listener = self._listeners[idx]
        self._shd: Any = SocketHolder(listener.fileno(), False, self.backlog)  # type: ignore[call-arg]
        self._sso: Any = listener
        worker: Any = super()._spawn_worker(idx, target, partial(_worker_app, self._inherited_fds(listener)))
        start = worker.start

        def start_with_signals_blocked() -> None:
            # The worker inherits the mask and unblocks the signals once it has handlers for them (`_handle_signals`).
            # Until then it would run this process's handlers, or die.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_SHUTDOWN_SIGNALS, _STOP_ACCEPTING_SIGNAL})
            try:
                start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        worker.start = start_with_signals_blocked
        return worker

    def _respawn_workers(self, workers: Sequence[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:  # noqa: ANN401
        """Replace the workers one by one. Stop when a shutdown is requested: `shutdown` ends the remaining ones."""
        for idx in workers:
            if self.interrupt_signal:
                break
            with suppress(ValueError):  # if it has crashed meanwhile, it is replaced here
                self.interrupt_children.remove(idx)
            old: Any = self.wrks[idx]
            if not old.is_alive():
                logger.error("worker {} exited unexpectedly ({}); starting another", idx + 1, old.inner.exitcode)
                if not self._wait_until_startable(self._listeners[idx]):
                    break
            self.respawned_wrks[idx] = time.monotonic()
            self.wrks[idx] = new = self._spawn_worker(idx, spawn_target, target_loader)
            new.start()
            self._wait(delay)
            if not self._stop_worker(old):
                self.wrks.append(old)
        self._wake_if_pending()

    def _wait_until_startable(self, listener: socket.socket) -> bool:
        """Return True when a new worker on `listener` could serve, or no other worker is left; False on shutdown.

        Granian stops the whole service when a new worker exits at once, as it does while the database is down.
        """
        others: list[Any] = self.wrks
        while any(worker.is_alive() for worker in others):
            if self.interrupt_signal:
                return False
            try:
                self._check_startup()
            except Exception as error:  # noqa: BLE001 - no error here may stop the running workers
                logger.error("no worker can be started now, the others continue: {}", error)
                self._stop_listening(listener)
                self._wait(_RETRY_SECONDS)
            else:
                break
        listener.listen(self.backlog)
        return True

    def _stop_listening(self, listener: socket.socket) -> None:
        """Leave new connections to the other workers: on this listener they would wait for the missing one."""
        # Not twice: on Linux the second time would end what this listener accepts later.
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if is_listening and self._listeners.count(listener) == 1:
            with suppress(OSError):  # not every system can do it
                listener.shutdown(socket.SHUT_RD)

    def _stop_worker(self, worker: Any) -> bool:  # noqa: ANN401 - granian's
        """Stop the worker gracefully and return True; return False if a shutdown is requested before it has ended.

        Granian lets requests in flight finish, but closes connections on which no request has arrived yet. So the
        worker stops accepting first, and gets time for the first requests of the connections that it has accepted.
        """
        if self._tell_to_stop_accepting(worker):
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
        """Wait for `seconds`, until the worker has ended, or until a shutdown is requested."""
        # Not by waiting for an event: another reload requested meanwhile must not shorten the wait.
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.interrupt_signal and (worker is None or worker.is_alive()):
            time.sleep(_POLL_SECONDS)

    def _inherited_fds(self, listener: socket.socket) -> list[int]:
        """Return the descriptors of the listeners that a worker on this one inherits: after a fork, all of them."""
        forks = multiprocessing.get_start_method() == "fork"
        return sorted({each.fileno() for each in (self._listeners if forks else [listener])})

    def _tell_to_stop_accepting(self, worker: Any) -> bool:  # noqa: ANN401 - granian's
        """Return False if the worker had already ended."""
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, _STOP_ACCEPTING_SIGNAL)
                return True
        return False

    def _reload(self, spawn_target: Any, target_loader: Any) -> None:  # noqa: ANN401 - granian's
        self.reload_signal = False
        self.main_loop_interrupt.clear()
        try:
            # Granian would treat a worker that cannot start as a crash, and stop the service.
            self._check_startup()
        except Exception as error:  # noqa: BLE001 - no error here may stop the running workers
            logger.error("the workers are not replaced, the running ones continue: {}", error)
            self._wake_if_pending()
        else:
            logger.info("replacing the workers; each old one ends when its requests in flight have completed")
            self._respawn_workers(range(self.workers), spawn_target, target_loader, self.respawn_interval)

    def _wake_if_pending(self) -> None:
        """Wake the main loop for a signal that arrived just before it cleared the event."""
        if self.interrupt_signal or self.reload_signal or self.interrupt_children:
            self.main_loop_interrupt.set()


class _Interrupt:
    """An event that signal handlers may set. With threading.Event, a handler could deadlock on the event's own lock."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # its `put` is reentrant

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
    """Return a worker's application and set its handler of the stop-accepting signal. `listeners`: file descriptors."""
    app = create_app(started=_freeze_objects)
    inodes = {listener: os.fstat(listener).st_ino for listener in listeners}
    # Made now: in the handler there may be no descriptor left, in a worker that has accepted all that it can.
    unused = socket.create_server(("127.0.0.1", 0))
    unused.setblocking(False)

    def stop_accepting(*_: object) -> None:
        app.admission.closing = True
        _stop_accepting(inodes, unused)

    signal.signal(_STOP_ACCEPTING_SIGNAL, stop_accepting)
    _signals.set_loop_signals = _handle_signals
    return app


def _handle_signals(loop: asyncio.AbstractEventLoop) -> WorkerSignal:
    """Set the worker's signal handlers; return the event that they set. Signals sent since its start are handled too.

    Replaces granian's function, whose worker hangs when it gets the signal twice: with Ctrl-C, and when systemd stops a
    service, all processes get it, and then the main process sends it to the workers.
    """
    shutdown = WorkerSignal()
    set_once = cache(shutdown.set)

    def handle(*_: object) -> None:
        # Not the loop's own signal handlers: between start-up and serving the loop does not run, and uvloop loses the
        # signals that arrive then.
        with suppress(RuntimeError):  # the loop is closed: the worker is ending anyway
            loop.call_soon_threadsafe(set_once)

    for number in _SHUTDOWN_SIGNALS:
        signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_SHUTDOWN_SIGNALS, _STOP_ACCEPTING_SIGNAL})
    return shutdown


def _freeze_objects() -> None:
    """Exempt all present objects from garbage collection, and collect the others less often.

    Otherwise the collector traverses the service's 180,000 long-lived objects again and again, and all requests wait
    for it. docs/adr/012-fewer-instructions.md has the measurements.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)


def _stop_accepting(listeners: Mapping[int, int], unused: socket.socket) -> None:
    """Replace this worker's listening sockets by `unused`; the next worker accepts on the originals.

    `listeners`: inodes by file descriptor. An ending worker may have closed a listener, whose descriptor may have been
    reused since.
    """
    for listener, inode in listeners.items():
        with suppress(OSError):
            if os.fstat(listener).st_ino == inode:
                os.dup2(unused.fileno(), listener, inheritable=False)
