"""The log lines and events of a request have its correlation id; a write makes one event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cdv_http.completed_requests import record_pending
from tests.http.api import POST, Api, Creator, data, refused, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault that logs as in staging, where every line is JSON with all its fields."""
    async with serving(tmp_path / "vault", env="staging") as opened:
        yield opened


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Logged:
    """A function that returns the lines logged since its last call."""

    def since() -> list[dict[str, Any]]:
        record_pending()
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return since


async def events(creator: Creator) -> list[dict[str, Any]]:
    """Return the envelopes of a creator's events, in op-log order."""
    entries = await creator.api.service.outbox.read(0, 1_000_000)
    return [json.loads(entry.event.envelope) for entry in entries if entry.event.did == creator.did]


async def test_every_log_line_of_a_request_has_its_correlation_id(ada: Creator, logged: Logged) -> None:
    data(await ada.create(headers={"X-Correlation-Id": "find-me"}))
    refused(await ada.create(record={}, headers={"X-Correlation-Id": "and-me"}), 400, "CDV_SCHEMA_REJECT")
    lines = logged()
    assert {line["correlation_id"] for line in lines} == {"find-me", "and-me"}
    good, bad = lines[0], lines[-1]
    assert (good["status"], good["did"], good.get("error_code")) == (200, ada.did, None)
    assert (bad["status"], bad["error_code"]) == (400, "CDV_SCHEMA_REJECT")
    assert good["latency_ms"] > 0
    assert good["route"] == "/v1/repo/record"


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what.comes.later", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", None),
        (f"cc-{TRACE}-b7ad6b7169203331-01more", None),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),
        ("junk", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
    ],
)
async def test_log_lines_have_the_trace_id_of_a_valid_traceparent(
    ada: Creator, logged: Logged, header: str, trace: str | None
) -> None:
    data(await ada.create(headers={"traceparent": header}))
    assert {line.get("trace_id") for line in logged()} == {trace}


async def test_the_trace_id_is_the_correlation_id_of_log_lines_and_events(ada: Creator, logged: Logged) -> None:
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    answer = await ada.create(headers={"traceparent": parent})
    ticket = await ada.staged()
    await ada.finalize(ticket["assetId"])
    await ada.create(headers={"traceparent": parent, "X-Correlation-Id": "my-own"})
    assert answer.headers["x-correlation-id"] == logged()[0]["correlation_id"] == TRACE
    assert [event["correlationId"] for event in await events(ada)][::2] == [TRACE, "my-own"]
    entries = [entry for entry in await ada.api.service.outbox.read(0, 1_000_000) if entry.event.did == ada.did]
    assert [entry.event.traceparent for entry in entries] == [parent, None, parent]


async def test_a_log_line_cannot_be_forged_and_holds_no_token(ada: Creator, logged: Logged) -> None:
    await ada.api.http.get("/v1/nope%0d%0aERROR forged", headers=ada.auth)
    (line,) = logged()
    assert "/v1/nope%0d%0aERROR" in line["message"]
    assert ada.auth["Authorization"].removeprefix("Bearer ") not in json.dumps(line)


async def test_the_signature_of_an_upload_url_is_not_logged(ada: Creator, logged: Logged) -> None:
    ticket = await ada.staged()
    signature = ticket["uploadUrl"].rpartition(".")[2]
    lines = logged()
    assert any("PUT /v1/blobs/upload/" in line["message"] for line in lines)
    assert all(signature not in line["message"] for line in lines)


async def test_a_write_makes_one_event_with_the_correlation_id_of_its_request(ada: Creator) -> None:
    receipt = await ada.created(headers={"X-Correlation-Id": "the-first"}, idempotencyKey="k")
    data(await ada.create(headers={"X-Correlation-Id": "a-retry"}, idempotencyKey="k"))
    refused(await ada.create(record={}), 400, "CDV_SCHEMA_REJECT")
    (event,) = await events(ada)
    assert set(event) == {"type", "version", "occurredAt", "correlationId", "payload"}
    assert event["correlationId"] == "the-first"
    uri = receipt["uri"]
    assert event["payload"] == {
        **receipt,
        "did": ada.did,
        "collection": uri.split("/")[3],
        "rkey": uri.split("/")[4],
    }


async def test_concurrent_retries_make_one_event(ada: Creator) -> None:
    record = {"text": "x", "createdAt": "2026-11-24T02:53:29Z", "authorDid": ada.did}
    await asyncio.gather(*(ada.create(idempotencyKey="k", collection=POST, record=record) for _ in range(24)))
    assert len(await events(ada)) == 1


async def test_a_finalised_asset_makes_one_event(ada: Creator) -> None:
    ticket = await ada.staged(filename="cat.png")
    assert await events(ada) == []
    answers = await asyncio.gather(*(ada.finalize(ticket["assetId"]) for _ in range(5)))
    data(await ada.finalize(ticket["assetId"]))
    asset = data(answers[0])
    (event,) = await events(ada)
    members = ("assetId", "uri", "mimeType", "size", "checksum", "createdAt")
    assert event["payload"] == {**{name: asset[name] for name in members}, "did": ada.did}
    assert event["correlationId"] in {answer.headers["x-correlation-id"] for answer in answers}


async def test_a_client_that_reuses_a_correlation_id_loses_no_event(ada: Creator) -> None:
    for _ in range(3):
        await ada.created(headers={"X-Correlation-Id": "again"})
    assert [event["correlationId"] for event in await events(ada)] == ["again"] * 3
