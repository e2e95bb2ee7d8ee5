"""Tests of the events on NATS. That no event follows is shown by a later write of the same DID, not by waiting."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from conformance.http.event_log import STREAMS, Event, EventLog
from conformance.http.fixtures import newcomer
from conformance.http.laws import TIME
from conformance.http.requirements import Undecided, clause, judges
from conformance.http.vault import FOLLOW, PROFILE, Creator, concurrently, data, expect_error, new_key, receipt_of

CONSUMERS = {"GATEWAY_FANOUT", "DURABLE_DEVTOOLS"}  # domain, events


@pytest.fixture(autouse=True)
def _require_streams(events: EventLog, request: pytest.FixtureRequest) -> None:
    if events.problem:
        raise Undecided(events.problem)
    if {*STREAMS} - {*events.streams} and "EVENT-001" not in request.function.judges:
        raise Undecided(f"{events.missing}: judged by EVENT-001")


def records_until(events: EventLog, creator: Creator, uri: str) -> list[Event]:
    """Return the record events of a creator up to the event of `uri`, in order of arrival."""
    found = events.wait(lambda event: event.payload.get("uri") == uri)
    return [event for event in found if event.stream == "RA_RECORDS" and event.payload.get("did") == creator.did]


def events_before_another_write(events: EventLog, creator: Creator) -> list[Event]:
    """Create another record, wait for its event, and return the creator's record events that arrived before it."""
    uri = creator.created(record={"displayName": "last"})["uri"]
    return [event for event in records_until(events, creator, uri) if event.payload.get("uri") != uri]


@judges("EVENT-001")
def test_streams_and_consumers_are_there(events: EventLog):
    assert not events.missing, events.missing
    for name, subject in STREAMS.items():
        subjects, consumers = events.streams[name]
        assert subject in subjects, f"stream {name} has the subjects {subjects}"
        assert consumers >= CONSUMERS, f"stream {name} has the consumers {sorted(consumers)}"


@judges("EVENT-002", "EVENT-003", "EVENT-004", "EVENT-005")
@newcomer("ada")
def test_a_record_is_announced(events: EventLog, ada: Creator):
    for collection, record in ((PROFILE, {"displayName": "Ada"}), (FOLLOW, {"subject": "did:example:a"})):
        own = f"c-{secrets.token_hex(8)}"
        receipt = receipt_of(ada.create({"X-Correlation-Id": own}, collection=collection, record=record))

        with clause("EVENT-002"):
            event = records_until(events, ada, receipt["uri"])[-1]
            assert event.subject == f"cdv.records.{collection}.created"
        with clause("EVENT-003"):
            assert_enveloped(event.envelope)
        with clause("EVENT-004"):
            rkey = receipt["uri"].rpartition("/")[2]
            assert event.payload == {**receipt, "did": ada.did, "collection": collection, "rkey": rkey}
        with clause("EVENT-005"):
            assert event.envelope["correlationId"] == own


def assert_enveloped(envelope: dict[str, Any]) -> None:
    """Assert the members of an envelope. The contract leaves open whether `version` is a string or a number."""
    assert set(envelope) == {"type", "version", "occurredAt", "correlationId", "payload"}
    assert TIME.fullmatch(envelope["occurredAt"]), envelope["occurredAt"]
    assert isinstance(envelope["type"], str)
    assert envelope["type"]
    assert type(envelope["version"]) in {str, int, float}, envelope["version"]
    assert envelope["version"] != ""


@judges("EVENT-006")
@newcomer("ada")
def test_events_come_in_the_order_of_the_writes(events: EventLog, ada: Creator):
    written = [ada.created(record={"displayName": str(number)})["uri"] for number in range(20)]
    concurrently(lambda n: ada.created(record={"displayName": f"at once {n}"}), range(8))

    announced = [event.payload["uri"] for event in events_before_another_write(events, ada)]

    assert announced[: len(written)] == written
    assert len(announced) == len({*announced}) == 28, f"{len(announced)} events of 28 records"


@judges("EVENT-007")
@newcomer("ada")
def test_retries_are_announced_once(events: EventLog, ada: Creator):
    key = new_key()
    responses = concurrently(lambda _: ada.create(idempotencyKey=key), range(12))
    responses += [ada.create(idempotencyKey=key) for _ in range(2)]
    uri = data(responses[0])["uri"]

    assert [event.payload["uri"] for event in events_before_another_write(events, ada)] == [uri]


@judges("EVENT-008")
@newcomer("ada", "bob")
def test_a_refused_write_is_not_announced(events: EventLog, ada: Creator, bob: Creator):
    key = new_key()
    uri = ada.created(idempotencyKey=key)["uri"]
    expect_error(ada.create(record={}), 400)
    expect_error(ada.create(idempotencyKey=key, record={"displayName": "Bob"}), 409)
    expect_error(ada.create(cid="bafyreiazrbzlipiwm5lcl6i4tyrd6fot4pvigbuea5gfbfkxtaxzyvorai"), 409)
    expect_error(ada.create(did=bob.did), 403)

    assert [event.payload["uri"] for event in events_before_another_write(events, ada)] == [uri]
    assert events_before_another_write(events, bob) == []


@judges("EVENT-009")
@newcomer("ada")
def test_a_correlation_id_used_twice_loses_nothing(events: EventLog, ada: Creator):
    own = {"X-Correlation-Id": f"c-{secrets.token_hex(8)}"}
    written = [data(ada.create(own, record={"displayName": str(number)}))["uri"] for number in range(3)]

    announced = events_before_another_write(events, ada)

    assert [event.payload["uri"] for event in announced] == written
    ids = [event.headers.get("Nats-Msg-Id") for event in announced]
    assert all(ids), "an event without Nats-Msg-Id"
    assert len({*ids}) == 3


@judges("EVENT-010", "EVENT-011")
@newcomer("ada")
def test_a_finalised_asset_is_announced_once(events: EventLog, ada: Creator):
    upload = ada.staged()
    first = ada.finalize(upload.asset_id, upload.sha256)
    asset = data(first)
    concurrently(lambda _: ada.finalize(upload.asset_id, upload.sha256), range(6))
    last = ada.finalized()["assetId"]

    announced = [
        event
        for event in events.wait(lambda event: event.payload.get("assetId") == last)
        if event.payload.get("did") == ada.did and event.stream == "RA_MEDIA"
    ]

    with clause("EVENT-010"):
        expected: dict[str, Any] = {
            name: asset[name] for name in ("assetId", "uri", "mimeType", "size", "checksum", "createdAt")
        }
        assert announced[0].subject == "cdv.media.finalized"
        assert announced[0].payload == {**expected, "did": ada.did}
        assert set(announced[0].envelope) == {"type", "version", "occurredAt", "correlationId", "payload"}
        assert announced[0].envelope["correlationId"] == first.headers["x-correlation-id"]
    with clause("EVENT-011"):
        assert [event.payload["assetId"] for event in announced] == [upload.asset_id, last]
