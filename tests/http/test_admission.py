"""Admission control and load shedding (spec: CDV_MAX_IN_FLIGHT; operations: overload)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cdv_http import app
from cdv_http.admission import Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.metrics import registry
from cdv_http.middleware import load_shedding
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.load_shedding import LoadSheddingMiddleware
from cdv_http.request_headers import RequestHeaders
from cdv_http.request_state import RequestState, state_of
from tests.http.api import Api, data, refused, serving


class Moment:
    """A wall clock and a CPU clock that move only when set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.processor = 1.0
        self.clocks: Any = {"monotonic": lambda: self.now, "thread_time": lambda: self.processor}

    def admission(self, most: int) -> Admission:
        return Admission(most, **self.clocks)


def enter(admission: Admission, many: int, first: int = 0) -> int:
    """Return how many of `many` clients are admitted."""
    return sum(admission.enter(f"client {number}") for number in range(first, first + many))


async def test_a_burst_takes_all_slots_and_overload_gets_few() -> None:
    moment = Moment()
    admission = moment.admission(100)
    assert enter(admission, 100) == 100
    assert enter(admission, 50, 100) == 0
    for number in range(100):
        admission.leave([f"client {number}"], 0.001)
    assert enter(admission, 50) == 4
    moment.now += 1  # the overload goes on
    assert enter(admission, 50, 50) == 0
    moment.now += 1
    for number in range(4):
        admission.leave([f"client {number}"], 0.001)
    assert enter(admission, 4) == 4
    moment.now += 1  # for a second, nothing was shed
    assert enter(admission, 80, 4) == 80


async def test_the_longer_a_request_takes_the_more_are_admitted_under_overload() -> None:
    moment = Moment()
    admission = moment.admission(100)

    def serve(many: int, seconds: float, client_seconds: float = 0.0) -> None:
        for number in range(many):
            assert admission.enter(f"client {number}")
            state = RequestState(RequestHeaders(()))
            for _ in range(2):
                with admission.waiting_for_the_client(state):
                    moment.now += client_seconds
            admission.leave([f"client {number}"], seconds + 2 * client_seconds - state.waited_seconds)

    def overload() -> int:
        """Return how many requests are admitted under overload, after completing all of them."""
        before = enter(admission, 200)
        for number in range(before):
            admission.leave([f"client {number}"], 9.0)  # latency under overload is not the baseline
        admitted = enter(admission, 200)
        for number in range(admitted):
            admission.leave([f"client {number}"], 9.0)
        moment.now += 1
        return admitted

    assert overload() == 4
    serve(18, 0.02)
    moment.now += 1
    assert overload() == 4  # too few requests for a baseline
    serve(20, 0.0101)
    moment.now += 1
    assert overload() == 25
    serve(20, 0.005, client_seconds=0.04)
    moment.now += 1
    assert overload() == 12  # waiting for the client does not count
    serve(20, 5.0)
    moment.now += 1
    assert overload() == 12  # it may have been busy for a moment


async def test_the_more_cpu_time_a_request_takes_the_fewer_are_admitted_under_overload() -> None:
    moment = Moment()
    admission = moment.admission(100)

    def admitted(processor_seconds: float) -> int:
        """Serve twenty requests of 10 ms with that CPU time each; return how many are admitted under overload."""
        for number in range(20):
            assert admission.enter(f"client {number}")
            admission.leave([f"client {number}"], 0.0101)
        moment.processor += 20 * processor_seconds
        moment.now += 1
        for number in range(enter(admission, 200)):
            admission.leave([f"client {number}"], 9.0)
        moment.processor += 1.0  # CPU time under overload is not the baseline
        few = enter(admission, 200)
        for number in range(few):
            admission.leave([f"client {number}"], 9.0)
        moment.now += 1
        return few

    assert admitted(0.005) == 4
    assert admitted(0.001) == 10
    assert admitted(0.005) == 10  # it may have been busy with other work for a moment
    assert admitted(0.0001) == 25


async def test_more_are_admitted_under_overload_where_it_leaves_the_processor_idle() -> None:
    moment = Moment()
    admission = moment.admission(100)

    def serve(rounds: int) -> int:
        """Return how many are admitted in the last of these rounds under overload."""
        for _ in range(rounds):
            for number in range(few := enter(admission, 200)):
                admission.leave([f"client {number}"], 9.0)
        return few

    for number in range(20):  # the first ones, each after a long pause
        assert admission.enter(f"client {number}")
        admission.leave([f"client {number}"], 0.0241)
    moment.processor += 20 * 0.01
    moment.now += 1
    serve(1)
    assert serve(10) == 4
    moment.processor += 0.01  # most of them came as a burst, and were served together
    moment.now += 1
    assert serve(10) == 4
    moment.processor += 0.08  # 40 were served
    moment.now += 1
    assert serve(10) == 12


async def test_latency_under_overload_does_not_become_the_baseline() -> None:
    moment = Moment()
    admission = moment.admission(10)
    assert enter(admission, 12) == 10
    for number in range(10):
        admission.leave([f"client {number}"], 9.0)
    moment.now += 1
    for number in range(20):
        assert admission.enter(f"client {number}")
        admission.leave([f"client {number}"], 0.002)
    moment.now += 1
    assert enter(admission, 12) == 10
    for number in range(10):
        admission.leave([f"client {number}"], 9.0)
    assert enter(admission, 12) == 5


async def test_waits_for_the_client_do_not_count_as_latency() -> None:
    moment = Moment()

    class Noting(Admission):
        seconds = 0.0

        def leave(self, holders: list[str], seconds: float) -> None:
            self.seconds = seconds
            super().leave(holders, seconds)

    async def slow_client(scope: Any, *_: object) -> None:
        moment.now += 0.25
        with admission.waiting_for_the_client(state_of(scope)):
            moment.now += 60
        moment.now += 0.5

    admission = Noting(10, **moment.clocks)
    middleware = LoadSheddingMiddleware(slow_client, admission, ClientAddresses(()), AllowedOrigins(()))
    scope: Any = {"type": "http", "method": "GET", "path": "/v1/x", "headers": [], "client": ("192.0.2.1", 1)}
    await middleware(scope, receive=None, send=None)  # type: ignore[arg-type]
    assert admission.seconds == 0.75


async def test_a_request_that_waits_long_for_its_client_frees_its_slot() -> None:
    moment = Moment()
    admission = moment.admission(10)
    assert enter(admission, 11) == 10  # overload: only four may be active
    for number in range(6):
        admission.leave([f"client {number}"], 0.001)
    with admission.waiting_for_the_client(RequestState(RequestHeaders(()))):
        assert not admission.enter("another")  # the wait may be over in a moment
    with admission.waiting_for_the_client(RequestState(RequestHeaders(()))):
        moment.now += 0.25
        assert admission.enter("another")
    assert not admission.enter("one more")


async def test_the_longest_wait_is_ended_where_all_slots_are_taken() -> None:
    moment = Moment()
    admission = moment.admission(4)
    assert enter(admission, 4) == 4
    ended: list[int] = []
    waits = []
    for number in range(2):
        state = RequestState(RequestHeaders(()))
        state.end = partial(ended.append, number)
        waits.append(admission.waiting_for_the_client(state))
        waits[-1].__enter__()
        moment.now += 0.1
    assert not admission.enter("too soon")
    moment.now += 0.2
    assert admission.enter("another")
    assert admission.enter("one more")
    assert ended == [0, 1]
    assert not admission.enter("one too many")
    for number, wait in enumerate(waits):
        wait.__exit__()
        admission.leave([f"client {number}"], 0.001)
    assert admission.in_flight == 4
    assert not admission.enter("still full")


async def test_no_client_holds_more_than_half_of_the_slots() -> None:
    admission = Admission(10)
    assert [admission.enter("greedy") for _ in range(6)] == [True] * 5 + [False]
    assert [admission.enter("modest") for _ in range(5)] == [True] * 5
    for _ in range(5):
        admission.leave(["greedy"], 0.001)
    assert admission.enter("greedy")
    assert [admission.claim_for("a subject") for _ in range(6)] == [True] * 5 + [False]


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault with eight slots and clients behind a trusted proxy."""
    async with serving(tmp_path, max_in_flight=8, trusted_proxies=("127.0.0.1",), request_timeout=20.0) as opened:
        yield opened


async def test_slow_requests_of_one_address_leave_slots_for_others(api: Api) -> None:
    gone = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"{"
        await gone.wait()

    def slow(number: int, address: str) -> asyncio.Task[object]:
        headers = {**api.creator().auth, "Content-Type": "application/json", "X-Forwarded-For": address}
        return asyncio.create_task(api.http.post("/v1/repo/record", content=waiting(), headers=headers))

    tasks = [slow(number, "192.0.2.1") for number in range(20)]
    done: set[asyncio.Task[object]] = set()
    while len(done) < 16:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        await asyncio.sleep(0)
    for task in done:
        refused(task.result(), 503, "CDV_UNAVAILABLE")  # type: ignore[arg-type]
    for number in range(20):
        assert data(await api.creator().create(headers={"X-Forwarded-For": f"192.0.2.{number + 2}"}))
    gone.set()
    for task in set(tasks) - done:
        refused(await task, 400, "CDV_BAD_REQUEST")  # type: ignore[arg-type]
    assert data(await api.creator().create(headers={"X-Forwarded-For": "192.0.2.1"}))


async def test_slow_requests_of_one_subject_leave_slots_for_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy, gone, inside = api.creator(), asyncio.Event(), 0
    create = api.service.vault.records.create

    async def slow(*arguments: object, **named: object) -> object:
        nonlocal inside
        inside += 1
        await gone.wait()
        return await create(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(type(api.service.vault.records), "create", lambda _, *a, **n: slow(*a, **n))
    tasks = [
        asyncio.create_task(greedy.create(headers={"X-Forwarded-For": f"192.0.2.{number}"})) for number in range(8)
    ]
    while inside < 4:
        await asyncio.sleep(0)
    answers = [await task for task in tasks[4:]]
    for answer in answers:
        assert refused(answer, 429, "CDV_RATE_LIMIT")["details"] == {"budget": "concurrent_requests"}
    assert data(await api.creator().list()) == {"records": []}
    gone.set()
    for task in tasks[:4]:
        assert data(await task)


async def test_requests_that_arrive_together_under_overload_are_not_all_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "Admission", Moment().admission)
    async with serving(tmp_path, max_in_flight=20, trusted_proxies=("127.0.0.1",)) as overloaded:
        records, gone, inside = overloaded.service.vault.records, asyncio.Event(), 0
        create = records.create

        async def slow(*arguments: object, **named: object) -> object:
            nonlocal inside
            inside += 1
            await gone.wait()
            return await create(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(type(records), "create", lambda _, *a, **n: slow(*a, **n))
        for admitted in (20, 4):
            gone.clear()
            inside = 0
            tasks = [
                asyncio.create_task(overloaded.creator().create(headers={"X-Forwarded-For": f"192.0.2.{number}"}))
                for number in range(60)
            ]
            while inside < admitted or sum(task.done() for task in tasks) < 60 - admitted:
                await asyncio.sleep(0)
            gone.set()
            statuses = sorted([(await task).status_code for task in tasks])
            assert statuses == [200] * admitted + [503] * (60 - admitted)


async def test_a_shed_request_gets_the_headers_of_every_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = "https://app.example"
    async with serving(tmp_path, cors_allowed_origins=(origin,)) as full:
        served = await full.http.get("/v1/nope", headers={"Origin": origin, "X-Correlation-Id": "mine"})
        refused(served, 404, "CDV_NOT_FOUND")
        monkeypatch.setattr(Admission, "enter", lambda *_: False)
        headers = {"Origin": origin, "X-Correlation-Id": "mine"}
        answer = await full.http.get("/v1/nope", headers=headers)
        refused(answer, 503, "CDV_UNAVAILABLE")
        assert {**answer.headers, "retry-after": None, "content-length": None} == {
            **served.headers,
            "retry-after": None,
            "content-length": None,
        }
        assert answer.headers["retry-after"] == "1"
        sent: list[Any] = []
        scope = {"type": "http", "method": "HEAD", "path": "/v1/nope", "headers": [], "scheme": "http"}

        async def send(message: object) -> None:
            sent.append(message)

        await full.app(scope, None, send)  # type: ignore[arg-type] # httpx would hide a body
        assert (sent[0]["status"], sent[1]["body"]) == (503, b"")
        trace = "0af7651916cd43dd8448eb211c80319c"
        traced = await full.http.get("/v1/nope", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        assert traced.headers["x-correlation-id"] == traced.json()["error"]["correlationId"] == trace
        preflight = {"Access-Control-Request-Method": "POST", **headers}
        assert (await full.http.options("/v1/repo/record", headers=preflight)).status_code == 204
        assert (await full.http.options("/v1/repo/record", headers=headers)).status_code == 503


async def test_a_failed_count_of_shed_requests_does_not_stop_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[dict[str, int]] = []

    def observe(by_method: dict[str, int]) -> None:
        counted.append(dict(by_method))
        if len(counted) == 1:
            raise OSError("no space left on device")

    async def send(_: object) -> None: ...

    monkeypatch.setattr(load_shedding, "observe_shed", observe)
    monkeypatch.setattr(Admission, "enter", lambda *_: False)
    middleware = LoadSheddingMiddleware(send, Admission(1), ClientAddresses(()), AllowedOrigins(()))  # type: ignore[arg-type]
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for method in ("GET", "POST", "BREW"):
        scope: Any = {"type": "http", "method": method, "path": "/v1/x", "headers": [], "scheme": "http"}
        await middleware({**scope, "http_version": "1.1"}, None, send)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert counted == [{"GET": 1}, {"POST": 1}, {"other": 1}]


async def test_shed_requests_are_counted_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def counts() -> tuple[float | None, ...]:
        labels = {"route": "unmatched"}
        return (
            registry.get_sample_value("cdv_requests_shed_total"),
            registry.get_sample_value("cdv_requests_total", {**labels, "method": "GET", "status": "503"}),
            registry.get_sample_value("cdv_errors_total", {**labels, "code": "CDV_UNAVAILABLE"}),
        )

    monkeypatch.setattr(app, "Admission", Moment().admission)
    async with serving(tmp_path) as full:
        monkeypatch.setattr(Admission, "enter", lambda *_: False)
        await full.http.get("/v1/nope")
        await asyncio.sleep(0)  # they are counted together, once in a round of the loop
        before = counts()
        for _ in range(3):
            await full.http.get("/v1/nope")
        await asyncio.sleep(0)
        assert counts() == tuple((count or 0) + 3 for count in before)
    lines = capsys.readouterr().err
    assert lines.count("too many requests in flight") == 1
    assert "GET /v1/nope" not in lines
