"""Who is let in when many want in (spec: CDV_MAX_IN_FLIGHT; operations: overload)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
    """A clock and a processor that stand still until told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.processor = 1.0
        self.clocks: Any = {"monotonic": lambda: self.now, "thread_time": lambda: self.processor}

    def places(self, most: int) -> Admission:
        return Admission(most, **self.clocks)


def enter(places: Admission, many: int, first: int = 0) -> int:
    """Return how many of so many clients are let in."""
    return sum(places.enter(f"client {number}") for number in range(first, first + many))


async def test_a_burst_takes_all_places_and_a_crowd_gets_few() -> None:
    moment = Moment()
    places = moment.places(100)
    assert enter(places, 100) == 100
    assert enter(places, 50, 100) == 0
    for number in range(100):
        places.leave([f"client {number}"], 0.001)
    assert enter(places, 50) == 4
    moment.now += 1  # the crowd is still there
    assert enter(places, 50, 50) == 0
    moment.now += 1
    for number in range(4):
        places.leave([f"client {number}"], 0.001)
    assert enter(places, 4) == 4
    moment.now += 1  # for a second, nobody was turned away
    assert enter(places, 80, 4) == 80


async def test_the_longer_a_request_takes_the_more_of_a_crowd_are_let_in() -> None:
    moment = Moment()
    places = moment.places(100)

    def serve(many: int, seconds: float, client_seconds: float = 0.0) -> None:
        for number in range(many):
            assert places.enter(f"client {number}")
            state = RequestState(RequestHeaders(()))
            for _ in range(2):
                with places.waiting_for_the_client(state):
                    moment.now += client_seconds
            places.leave([f"client {number}"], seconds + 2 * client_seconds - state.waited_seconds)

    def crowd() -> int:
        """Return how many of a crowd are let in; leave none of them there."""
        before = enter(places, 200)
        for number in range(before):
            places.leave([f"client {number}"], 9.0)  # what a crowd takes is not what is normal
        let_in = enter(places, 200)
        for number in range(let_in):
            places.leave([f"client {number}"], 9.0)
        moment.now += 1
        return let_in

    assert crowd() == 4
    serve(18, 0.02)
    moment.now += 1
    assert crowd() == 4  # so few say nothing yet
    serve(20, 0.0101)
    moment.now += 1
    assert crowd() == 25
    serve(20, 0.005, client_seconds=0.04)
    moment.now += 1
    assert crowd() == 12  # what a client takes is not the service's time
    serve(20, 5.0)
    moment.now += 1
    assert crowd() == 12  # it may have been busy for a moment


async def test_a_slow_processor_is_kept_busy_by_fewer() -> None:
    moment = Moment()
    places = moment.places(100)

    def let_in(processor_seconds: float) -> int:
        """Serve twenty that take 10 ms each, and so much of it of the processor; return how many of a crowd get in."""
        for number in range(20):
            assert places.enter(f"client {number}")
            places.leave([f"client {number}"], 0.0101)
        moment.processor += 20 * processor_seconds
        moment.now += 1
        for number in range(enter(places, 200)):
            places.leave([f"client {number}"], 9.0)
        moment.processor += 1.0  # what a crowd takes is not what is normal
        few = enter(places, 200)
        for number in range(few):
            places.leave([f"client {number}"], 9.0)
        moment.now += 1
        return few

    assert let_in(0.005) == 4
    assert let_in(0.001) == 10
    assert let_in(0.005) == 10  # it may have been busy with other work for a moment
    assert let_in(0.0001) == 25


async def test_more_of_a_crowd_are_let_in_where_it_leaves_the_processor_idle() -> None:
    moment = Moment()
    places = moment.places(100)

    def serve(rounds: int) -> int:
        """Return how many of a crowd get in each time."""
        for _ in range(rounds):
            for number in range(few := enter(places, 200)):
                places.leave([f"client {number}"], 9.0)
        return few

    for number in range(20):  # the first ones, each after a long pause
        assert places.enter(f"client {number}")
        places.leave([f"client {number}"], 0.0241)
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


async def test_what_few_of_a_crowd_took_is_not_taken_for_normal() -> None:
    moment = Moment()
    places = moment.places(10)
    assert enter(places, 12) == 10
    for number in range(10):
        places.leave([f"client {number}"], 9.0)
    moment.now += 1
    for number in range(20):
        assert places.enter(f"client {number}")
        places.leave([f"client {number}"], 0.002)
    moment.now += 1
    assert enter(places, 12) == 10
    for number in range(10):
        places.leave([f"client {number}"], 9.0)
    assert enter(places, 12) == 5


async def test_the_gate_takes_no_wait_for_a_client_for_work() -> None:
    moment = Moment()

    class Noting(Admission):
        seconds = 0.0

        def leave(self, holders: list[str], seconds: float) -> None:
            self.seconds = seconds
            super().leave(holders, seconds)

    async def slow_client(scope: Any, *_: object) -> None:
        moment.now += 0.25
        with places.waiting_for_the_client(state_of(scope)):
            moment.now += 60
        moment.now += 0.5

    places = Noting(10, **moment.clocks)
    gate = LoadSheddingMiddleware(slow_client, places, ClientAddresses(()), AllowedOrigins(()))
    scope: Any = {"type": "http", "method": "GET", "path": "/v1/x", "headers": [], "client": ("192.0.2.1", 1)}
    await gate(scope, receive=None, send=None)  # type: ignore[arg-type]
    assert places.seconds == 0.75


async def test_who_waits_long_for_its_client_is_in_nobodys_way() -> None:
    moment = Moment()
    places = moment.places(10)
    assert enter(places, 11) == 10  # so that there is a crowd, and only four may be at work
    for number in range(6):
        places.leave([f"client {number}"], 0.001)
    with places.waiting_for_the_client(RequestState(RequestHeaders(()))):
        assert not places.enter("another")  # the wait may be over in a moment
    with places.waiting_for_the_client(RequestState(RequestHeaders(()))):
        moment.now += 0.25
        assert places.enter("another")
    assert not places.enter("one more")


async def test_nobody_has_more_than_half_of_the_places() -> None:
    places = Admission(10)
    assert [places.enter("greedy") for _ in range(6)] == [True] * 5 + [False]
    assert [places.enter("modest") for _ in range(5)] == [True] * 5
    for _ in range(5):
        places.leave(["greedy"], 0.001)
    assert places.enter("greedy")
    assert [places.hold("a subject") for _ in range(6)] == [True] * 5 + [False]


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault with eight places, and clients behind a proxy that it trusts."""
    async with serving(tmp_path, max_in_flight=8, trusted_proxies=("127.0.0.1",), request_timeout=20.0) as opened:
        yield opened


async def test_one_addresss_slow_requests_leave_places_for_others(api: Api) -> None:
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


async def test_one_subjects_slow_requests_leave_places_for_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_those_who_arrive_together_in_a_crowd_are_not_all_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "Admission", Moment().places)
    async with serving(tmp_path, max_in_flight=20, trusted_proxies=("127.0.0.1",)) as crowded:
        records, gone, inside = crowded.service.vault.records, asyncio.Event(), 0
        create = records.create

        async def slow(*arguments: object, **named: object) -> object:
            nonlocal inside
            inside += 1
            await gone.wait()
            return await create(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(type(records), "create", lambda _, *a, **n: slow(*a, **n))
        for let_in in (20, 4):
            gone.clear()
            inside = 0
            tasks = [
                asyncio.create_task(crowded.creator().create(headers={"X-Forwarded-For": f"192.0.2.{number}"}))
                for number in range(60)
            ]
            while inside < let_in or sum(task.done() for task in tasks) < 60 - let_in:
                await asyncio.sleep(0)
            gone.set()
            statuses = sorted([(await task).status_code for task in tasks])
            assert statuses == [200] * let_in + [503] * (60 - let_in)


async def test_who_is_turned_away_gets_the_headers_of_every_answer(
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
        asked = {"Access-Control-Request-Method": "POST", **headers}
        assert (await full.http.options("/v1/repo/record", headers=asked)).status_code == 204
        assert (await full.http.options("/v1/repo/record", headers=headers)).status_code == 503


async def test_counts_that_fail_once_do_not_end_the_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[dict[str, int]] = []

    def observe(by_method: dict[str, int]) -> None:
        counted.append(dict(by_method))
        if len(counted) == 1:
            raise OSError("no space left on device")

    async def send(_: object) -> None: ...

    monkeypatch.setattr(load_shedding, "observe_shed", observe)
    monkeypatch.setattr(Admission, "enter", lambda *_: False)
    gate = LoadSheddingMiddleware(send, Admission(1), ClientAddresses(()), AllowedOrigins(()))  # type: ignore[arg-type]
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for method in ("GET", "POST", "BREW"):
        scope: Any = {"type": "http", "method": method, "path": "/v1/x", "headers": [], "scheme": "http"}
        await gate({**scope, "http_version": "1.1"}, None, send)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert counted == [{"GET": 1}, {"POST": 1}, {"other": 1}]


async def test_who_is_turned_away_is_counted_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def counts() -> tuple[float | None, ...]:
        labels = {"route": "unmatched"}
        return (
            registry.get_sample_value("cdv_requests_shed_total"),
            registry.get_sample_value("cdv_requests_total", {**labels, "method": "GET", "status": "503"}),
            registry.get_sample_value("cdv_errors_total", {**labels, "code": "CDV_UNAVAILABLE"}),
        )

    monkeypatch.setattr(app, "Admission", Moment().places)
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
    assert lines.count("turned away") == 1
    assert "GET /v1/nope" not in lines
