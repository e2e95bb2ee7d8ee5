"""The consumer of events: missing streams count against the target, a lost connection does not."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import nats
import pytest

from conformance.http import event_log
from conformance.http.event_log import STREAMS, Event, EventLog
from conformance.http.requirements import Undecided
from tests.conformance.judging import judge
from tests.conformance.stub import refusal, serving
from tests.servers import FaultProxy


def publish(url: str, subject: str = "", *, streams: bool = False) -> None:
    """Create the streams if `streams`; publish on the subject if one is given."""

    async def run() -> None:
        connection = await nats.connect(url)
        for name, subjects in STREAMS.items() if streams else ():
            await connection.jetstream().add_stream(name=name, subjects=[subjects])
        if subject:
            await connection.jetstream().publish(subject, b"{}")
        await connection.close()

    # In a separate thread: asyncio.run cannot be called while an event loop is running.
    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    thread.join()


def wait_for_event(events: EventLog, subject: str) -> list[Event]:
    try:
        return events.wait(lambda event: event.subject == subject)
    except Undecided as skipped:  # pytest would skip this test
        raise RuntimeError(str(skipped)) from skipped


def test_a_vault_without_streams_fails_the_requirement_for_them(tmp_path: Path, nats_url: str):
    token = ("--token-command", "echo e30.e30.e30")
    with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
        judgement = judge(tmp_path, stub.url, *token, "--only", "EVENT-00", "--nats", nats_url)

    assert judgement.verdict("EVENT-001")["verdict"] == "failed", judgement.text
    assert "there is no stream RA_RECORDS on NATS" in judgement.verdict("EVENT-001")["detail"]
    assert {"EVENT-002", "EVENT-006"} <= judgement.ids("undecided")


def test_a_lost_connection_fails_no_requirement_and_is_reestablished(nats_url: str, monkeypatch: pytest.MonkeyPatch):
    publish(nats_url, streams=True)
    with FaultProxy(nats_url) as proxy, EventLog(proxy.url) as events:
        assert not events.problem
        publish(nats_url, "cdv.records.a.created")
        wait_for_event(events, "cdv.records.a.created")
        monkeypatch.setattr(event_log, "ARRIVAL_SECONDS", 1.0)
        with pytest.raises(AssertionError, match="no such event arrived"):
            wait_for_event(events, "cdv.records.b.created")

        proxy.cut()
        publish(nats_url, "cdv.records.b.created")
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="was lost"):
            wait_for_event(events, "cdv.records.b.created")
        assert time.monotonic() - began < 10

        proxy.heal()
        monkeypatch.setattr(event_log, "ARRIVAL_SECONDS", 30.0)
        publish(nats_url, "cdv.records.c.created")
        received = wait_for_event(events, "cdv.records.c.created")

    assert [event.subject[12] for event in received] == ["a", "b", "c"]
