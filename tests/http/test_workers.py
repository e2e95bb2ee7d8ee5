"""Signals to granian's main loop while it replaces workers, and to a worker while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from granian.constants import Interfaces
from granian.server.mp import MPServer
from loguru import logger

from cdv_http.workers import Workers, _handle_signals


class Worker:
    """A fake process. `busy`: it does not end when it is terminated, as one with a request in flight."""

    def __init__(self, *, busy: bool = False) -> None:
        self.alive, self.busy, self.terminated = True, busy, False
        self.inner = SimpleNamespace(exitcode=0)

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.terminated = True
        self.alive = self.busy

    def kill(self) -> None:
        self.alive = False

    def join(self) -> None:
        assert not self.alive


class Fleet(Workers):
    """`proof`: called to check whether a worker could start. `when`: called as soon as a worker is started."""

    def __init__(
        self,
        count: int,
        *,
        proof: Any = lambda _: None,
        when: Any = lambda _: None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        super().__init__(
            listeners, check_startup=lambda: proof(self), interface=Interfaces.ASGI, workers=count, respawn_interval=0
        )
        self.wrks: list[Any] = [Worker() for _ in range(count)]
        self.started: list[int] = []
        self._when = when

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]
        self.started.append(idx)
        self._when(self)
        return Worker()

    def _tell_to_stop_accepting(self, worker: Any) -> bool:
        return bool(worker.is_alive())

    def is_woken(self) -> bool:
        """Whether the main loop is woken, and so does not wait for ever."""
        return bool(self.main_loop_interrupt.is_set())


@pytest.fixture(autouse=True)
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdv_http.workers._LAST_REQUESTS_SECONDS", 0)


def refuse(fleet: Fleet) -> None:
    fleet.signal_handler_interrupt()
    raise ValueError("no certificate")


@pytest.mark.parametrize("proof", [Workers.signal_handler_interrupt, refuse])
def test_a_stop_while_a_reload_is_checked_ends_the_loop_and_replaces_no_worker(proof: Any) -> None:
    fleet = Fleet(2, proof=proof)
    fleet.replace_workers()
    fleet._reload(None, None)
    assert fleet.is_woken()
    assert fleet.started == []
    fleet._serve_loop(None, None)  # returns


def test_a_stop_while_workers_are_replaced_leaves_the_others() -> None:
    fleet = Fleet(3, when=Workers.signal_handler_interrupt)
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert fleet.started == [0]
    assert len(fleet.wrks) == 3


def test_a_busy_worker_that_is_being_replaced_is_stopped_with_the_others() -> None:
    fleet = Fleet(2, when=Workers.signal_handler_interrupt)
    busy = Worker(busy=True)
    fleet.wrks[0] = busy
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert busy.terminated
    assert fleet.wrks[-1] is busy
    assert len(fleet.wrks) == 3


def test_a_reload_requested_while_another_is_checked_follows_it() -> None:
    def proof(fleet: Fleet) -> None:
        if fleet.started:
            fleet.signal_handler_interrupt()
        else:
            fleet.replace_workers()

    fleet = Fleet(1, proof=proof)
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert fleet.started == [0]


def test_a_worker_that_crashes_while_a_reload_is_checked_is_replaced_by_the_reload() -> None:
    fleet = Fleet(2, proof=lambda fleet: fleet.interrupt_children.append(1))
    fleet._reload(None, None)
    assert fleet.started == [0, 1]
    assert not fleet.is_woken()


def test_a_stop_while_a_crashed_worker_is_replaced_ends_the_loop() -> None:
    fleet = Fleet(2, when=Workers.signal_handler_interrupt)
    fleet.interrupt_children.append(1)
    fleet.respawn_failed_workers = True
    fleet.main_loop_interrupt.set()
    fleet._serve_loop(None, None)
    assert fleet.started == [1]


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield [one, other]


def is_listening(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.mark.parametrize("shared", [False, True])
def test_a_crashed_worker_is_replaced_once_a_new_one_could_start(
    monkeypatch: pytest.MonkeyPatch, listeners: list[socket.socket], shared: bool
) -> None:
    monkeypatch.setattr("cdv_http.workers._RETRY_SECONDS", 0)
    own, listened = listeners[1], []

    def proof(fleet: Fleet) -> None:
        assert fleet.started == []
        listened.append(is_listening(own))
        if len(listened) < 4:
            raise ValueError("the database is down")

    fleet = Fleet(2, proof=proof, listeners=[own, own] if shared else listeners)
    fleet.wrks[1].alive = False
    fleet._respawn_workers([1], None, None)
    assert fleet.started == [1]
    # Meanwhile connections go to the other workers, unless these accept on the same socket.
    assert listened == [True, shared, shared, shared]
    with socket.create_connection(own.getsockname()), own.accept()[0] as accepted:
        accepted.setblocking(False)
        with pytest.raises(BlockingIOError):  # the end of the stream would be b""
            accepted.recv(1)


def test_a_stop_while_no_worker_can_start_starts_none(listeners: list[socket.socket]) -> None:
    fleet = Fleet(2, proof=refuse, listeners=listeners)
    fleet.wrks[1].alive = False
    fleet._respawn_workers([1], None, None)
    assert fleet.started == []


def test_the_last_worker_that_crashes_is_replaced_without_a_check(listeners: list[socket.socket]) -> None:
    fleet = Fleet(1, proof=lambda _: pytest.fail("checked"), listeners=listeners)
    fleet.wrks[0].alive = False
    fleet._respawn_workers([0], None, None)
    assert fleet.started == [0]


def test_workers_that_exit_as_soon_as_they_are_started_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    fleet = Fleet(1)
    fleet.interrupt_children.append(0)
    monkeypatch.setattr(MPServer, "shutdown", lambda _, exit_code: sys.exit(exit_code or 1))
    handler = logger.add(logged.append, format="{level} {message}")
    try:
        with pytest.raises(SystemExit):
            fleet.shutdown()
    finally:
        logger.remove(handler)
    assert logged == ["ERROR the workers exit as soon as they are started; the service stops (see the errors above)\n"]


def test_signals_in_quick_succession_are_handled() -> None:
    fleet = Fleet(1)
    before = signal.signal(signal.SIGALRM, fleet.signal_handler_reload)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        for _ in range(2000):
            fleet.main_loop_interrupt.wait()
            fleet.main_loop_interrupt.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fleet.reload_signal


def test_stop_signals_are_blocked_while_a_worker_process_is_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[set[signal.Signals]] = []

    def mask() -> set[signal.Signals]:
        return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    class Starting(Worker):
        def start(self) -> None:  # where the process is created, which inherits the mask
            held.append(mask())

    monkeypatch.setattr(MPServer, "_spawn_worker", lambda *_: Starting())
    before = mask()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet = Workers([listener], check_startup=lambda: None, interface=Interfaces.ASGI, workers=1)
        fleet._spawn_worker(0, None, None).start()
    assert held == [before | {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}]
    assert mask() == before


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_stop_signal_between_a_workers_start_and_its_serving_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[str] = []
    monkeypatch.setattr("cdv_http.workers.WorkerSignal", lambda: SimpleNamespace(set=lambda: stops.append("end")))
    loop = uvloop.new_event_loop()
    _handle_signals(loop)
    loop.run_until_complete(asyncio.sleep(0))  # starts
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    loop.run_until_complete(asyncio.sleep(0))  # serves
    assert stops == ["end"]
    loop.close()
    os.kill(os.getpid(), signal.SIGTERM)  # later signals do no harm
