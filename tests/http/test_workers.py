"""What granian's main loop hears while it replaces workers, and a worker while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from granian.constants import Interfaces
from granian.server.mp import MPServer
from loguru import logger

from cdv_http.workers import Workers, _handle_signals


class Worker:
    """Stands in for a process. `busy`: it does not end when it is told to, as one that has a request under way."""

    def __init__(self, *, busy: bool = False) -> None:
        self.alive, self.busy, self.told = True, busy, False
        self.inner = SimpleNamespace(exitcode=0)

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.told = True
        self.alive = self.busy

    def kill(self) -> None:
        self.alive = False

    def join(self) -> None:
        assert not self.alive


class Fleet(Workers):
    """`when`: what is asked for as soon as a worker has been started."""

    def __init__(self, count: int, *, proof: Any = lambda _: None, when: Any = lambda _: None) -> None:
        super().__init__(
            [], check_startup=lambda: proof(self), interface=Interfaces.ASGI, workers=count, respawn_interval=0
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

    def hears(self) -> bool:
        """Whether the main loop is woken, and so does not wait for ever."""
        return bool(self.main_loop_interrupt.is_set())


@pytest.fixture(autouse=True)
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdv_http.workers._LAST_REQUESTS_SECONDS", 0)


def refuse(fleet: Fleet) -> None:
    fleet.signal_handler_interrupt()
    raise ValueError("no certificate")


@pytest.mark.parametrize("proof", [Workers.signal_handler_interrupt, refuse])
def test_an_end_asked_for_while_a_reload_is_proved_is_heard_and_nobody_is_replaced(proof: Any) -> None:
    fleet = Fleet(2, proof=proof)
    fleet.replace_workers()
    fleet._reload(None, None)
    assert fleet.hears()
    assert fleet.started == []
    fleet._serve_loop(None, None)  # returns


def test_an_end_asked_for_while_workers_are_replaced_leaves_the_others() -> None:
    fleet = Fleet(3, when=Workers.signal_handler_interrupt)
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert fleet.started == [0]
    assert len(fleet.wrks) == 3


def test_whoever_is_still_busy_when_the_end_is_asked_for_ends_with_the_others() -> None:
    fleet = Fleet(2, when=Workers.signal_handler_interrupt)
    busy = Worker(busy=True)
    fleet.wrks[0] = busy
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert busy.told
    assert fleet.wrks[-1] is busy
    assert len(fleet.wrks) == 3


def test_another_reload_asked_for_while_one_is_proved_follows() -> None:
    def proof(fleet: Fleet) -> None:
        if fleet.started:
            fleet.signal_handler_interrupt()
        else:
            fleet.replace_workers()

    fleet = Fleet(1, proof=proof)
    fleet.replace_workers()
    fleet._serve_loop(None, None)
    assert fleet.started == [0]


def test_a_crash_while_a_reload_is_proved_is_made_good_by_it() -> None:
    fleet = Fleet(2, proof=lambda fleet: fleet.interrupt_children.append(1))
    fleet._reload(None, None)
    assert fleet.started == [0, 1]
    assert not fleet.hears()


def test_an_end_asked_for_while_a_crashed_worker_is_replaced_is_heard() -> None:
    fleet = Fleet(2, when=Workers.signal_handler_interrupt)
    fleet.interrupt_children.append(1)
    fleet.respawn_failed_workers = True
    fleet.main_loop_interrupt.set()
    fleet._serve_loop(None, None)
    assert fleet.started == [1]


def test_that_workers_end_as_soon_as_they_are_started_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    fleet = Fleet(1)
    fleet.interrupt_children.append(0)
    monkeypatch.setattr(MPServer, "shutdown", lambda _, exit_code: sys.exit(exit_code or 1))
    handler = logger.add(said.append, format="{level} {message}")
    try:
        with pytest.raises(SystemExit):
            fleet.shutdown()
    finally:
        logger.remove(handler)
    assert said == ["ERROR the workers exit as soon as they are started; the service stops (see the errors above)\n"]


def test_signals_on_signals_are_heard() -> None:
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


def test_what_a_worker_is_told_while_it_starts_waits_until_it_knows_what_to_do_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[set[signal.Signals]] = []

    def mask() -> set[signal.Signals]:
        return {signal.Signals(it) for it in signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    class Starting(Worker):
        def start(self) -> None:  # where the process is made, which has the mask of who makes it
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
def test_a_worker_hears_of_its_end_between_its_start_and_its_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("cdv_http.workers.WorkerSignal", lambda: SimpleNamespace(set=lambda: told.append("end")))
    loop = uvloop.new_event_loop()
    _handle_signals(loop)
    loop.run_until_complete(asyncio.sleep(0))  # starts
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    loop.run_until_complete(asyncio.sleep(0))  # serves
    assert told == ["end"]
    loop.close()
    os.kill(os.getpid(), signal.SIGTERM)  # and what comes later still does no harm
