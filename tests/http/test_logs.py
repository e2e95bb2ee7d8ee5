"""Log lines: JSON outside dev, one for each logged request, and those of libraries in the same format."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from cdv_core.errors import Unavailable
from cdv_http.completed_requests import CompletedRequest, record_pending
from tests.http.api import Api, data, refused, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
Open = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def opened(anyio_backend: str, tmp_path: Path) -> Open:
    """Return a function that opens a vault with the log format of staging."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Api]:
        async with serving(tmp_path / "vault", env="staging", **settings) as api:
            yield api

    return opened


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    record_pending()
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_a_request_is_logged_as_one_line_of_json(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened() as api:
        ada = api.creator()
        data(await ada.create(headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}))
        refused(await ada.create(record={}, headers={"X-Correlation-Id": "mine"}), 400, "CDV_SCHEMA_REJECT")
    good, bad = lines(capsys)
    latency = good.pop("latency_ms")
    assert good.pop("message") == f"POST /v1/repo/record 200 {latency:.1f} ms"
    assert good.pop("time").endswith("Z")
    assert good == {
        "level": "info",
        "correlation_id": TRACE,
        "trace_id": TRACE,
        "route": "/v1/repo/record",
        "status": 200,
        "did": ada.did,
    }
    assert (bad["correlation_id"], bad["status"], bad["error_code"]) == ("mine", 400, "CDV_SCHEMA_REJECT")
    assert "trace_id" not in bad


async def test_pending_request_lines_are_written_before_the_service_stops(
    opened: Open, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = CompletedRequest("GET", b"/last", "unmatched", 404, 0.001, "mine", None, None, None)
    async with opened():
        monkeypatch.setattr("cdv_http.completed_requests._pending", [last])  # and the loop has no next round
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["message"] == "GET /last 404 1.0 ms"


@pytest.mark.parametrize(
    "path", ["/v1/blobs/upload/SECRET", "/v1/%62lobs/upload/SECRET", "/v1/blobs%2Fdownload/SECRET"]
)
async def test_the_token_of_a_signed_url_is_not_logged(
    opened: Open, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    async with opened() as api:
        await api.http.put(path, content=b"x")
    record_pending()
    (message,) = [line["message"] for line in lines(capsys) if line["message"].startswith("PUT ")]
    assert message.startswith("PUT /v1/blobs/")
    assert "SECRET" not in message


@pytest.mark.parametrize("terminal", [False, True])
async def test_in_dev_a_request_is_logged_as_one_plain_text_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    async with serving(tmp_path / "vault") as api:
        refused(await api.http.get("/v1/{no}%0aroute", headers={"X-Correlation-Id": "mine"}), 404, "CDV_NOT_FOUND")
    record_pending()
    (line,) = capsys.readouterr().err.splitlines()
    assert ("\x1b[" in line) == terminal
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    GET /v1/%7Bno%7D%0aroute 404 \d+\.\d ms mine", plain)


async def test_a_sample_of_successes_and_every_failure_are_logged(
    opened: Open, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = cycle([0.1, 0.5, 0.9, 0.05])
    monkeypatch.setattr("cdv_http.logs.random.random", lambda: next(chances))
    async with opened(log_sample=0.25) as api:
        ada = api.creator()
        for _ in range(4):
            data(await ada.create())
            refused(await ada.create(record={}), 400, "CDV_SCHEMA_REJECT")
    assert [line["status"] for line in lines(capsys)] == [200, 400, 400, 400, 200, 400]


async def test_with_a_sample_of_zero_failures_and_their_causes_are_logged(
    opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("database") from OSError("the cable is out")

    async with opened(log_sample=0.0) as api:
        data(await api.creator().create())
        api.service.vault.records.create = away  # type: ignore[method-assign, assignment]
        answer = await api.creator().create()
    reason, request = lines(capsys)
    assert reason["level"] == "warning"
    assert "the cable is out" in reason["exception"]
    assert {reason["correlation_id"], request["correlation_id"]} == {answer.headers["x-correlation-id"]}
    assert request["status"] == 503


@pytest.mark.parametrize(
    ("members", "description"),
    [
        ({"collection": "com.example.none"}, "collection 'com.example.none', version None"),
        (
            {"collection": "com.example.none", "schemaVersion": "2.0.0"},
            "collection 'com.example.none', version '2.0.0'",
        ),
        ({"schemaVersion": "9.9.9"}, "collection 'com.registryaccord.profile', version '9.9.9'"),
        (
            {"schemaVersion": "1\nERROR \u202e" + "x" * 5000},
            rf"collection 'com.registryaccord.profile', version '1\nERROR \u202e{'x' * 119}'",
        ),
    ],
)
async def test_a_missing_schema_is_logged_with_the_correlation_id(
    opened: Open, capsys: pytest.CaptureFixture[str], members: dict[str, str], description: str
) -> None:
    async with opened() as api:
        refused(await api.creator().create(**members, headers={"X-Correlation-Id": "mine"}), 400, "CDV_VALIDATION")
    reason, request = lines(capsys)
    assert (reason["level"], reason["message"]) == ("warning", f"no schema: {description}")
    assert reason["correlation_id"] == request["correlation_id"] == "mine"


async def test_a_missing_schema_is_logged_for_a_listing_too(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    query = {"did": "did:example:ada", "collection": "com.example.none"}
    async with opened() as api:
        refused(await api.http.get("/v1/repo/listRecords", params=query), 400, "CDV_VALIDATION")
    reason, request = lines(capsys)
    assert reason["message"] == "no schema: collection 'com.example.none', version None"
    assert reason["correlation_id"] == request["correlation_id"]


async def test_lines_below_the_level_are_not_written(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened(log_level="warning") as api:
        data(await api.creator().create())
        refused(await api.creator().create(record={}), 400, "CDV_SCHEMA_REJECT")
        logger.info("not this")
        logger.warning("but this")
    assert [line["message"] for line in lines(capsys)] == ["but this"]


async def test_log_lines_of_libraries_have_the_same_format(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened():
        library = logging.getLogger("a.library")
        library.info("chatter")
        library.warning("look: %s {not a field}", "here")
        try:
            raise ValueError("wrong\nin two lines")
        except ValueError:
            library.exception("it failed")
    warned, failed = lines(capsys)
    assert (warned["level"], warned["message"]) == ("warning", "look: here {not a field}")
    assert "correlation_id" not in warned
    assert (failed["level"], failed["message"]) == ("error", "it failed")
    assert "ValueError: wrong\nin two lines" in failed["exception"]


async def test_a_path_cannot_break_a_log_line(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    async with opened() as api:
        await api.http.get('/v1/nope%0a{"level":"info"}"\\')
    (line,) = lines(capsys)
    assert line["status"] == 404


async def test_request_lines_are_written_without_further_requests(
    opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ""
    async with opened() as api, asyncio.timeout(5):
        for _ in range(3):
            data(await api.creator().list())
        while written.count("\n") < 3:
            await asyncio.sleep(0.01)
            written += capsys.readouterr().err
    assert [json.loads(line)["status"] for line in written.splitlines()] == [200, 200, 200]
