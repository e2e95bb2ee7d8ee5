"""The envelopes and payloads of events."""

import json
from datetime import UTC, datetime

import pytest

from cdv_core.domain.events import media_finalized, record_created, trace_context
from cdv_core.domain.identifiers import AssetId, Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.media import Asset
from cdv_core.domain.records import NewRecord

NOW = datetime(2026, 11, 24, 2, 53, 29, 5, UTC)
LATER = datetime(2026, 11, 24, 2, 54, tzinfo=UTC)


def test_a_record_created_event_has_the_contracts_envelope_and_payload():
    uri = RecordUri(Did("did:plc:a"), Nsid("com.example.post"), RecordKey("01KAV3XG8J0000000000000000"))
    record = NewRecord(uri, "bafy", b'{"secret": "text"}', NOW, "1.2.0")
    event = record_created(record, event_id="01E", correlation_id="c-1")
    assert (event.event_id, event.did, event.occurred_at) == ("01E", "did:plc:a", NOW)
    assert event.subject == "cdv.records.com.example.post.created"
    assert json.loads(event.envelope) == {
        "type": "cdv.records.com.example.post.created",
        "version": "1.0.0",
        "occurredAt": "2026-11-24T02:53:29.000005Z",
        "correlationId": "c-1",
        "payload": {
            "uri": str(uri),
            "cid": "bafy",
            "did": "did:plc:a",
            "collection": "com.example.post",
            "rkey": "01KAV3XG8J0000000000000000",
            "schemaVersion": "1.2.0",
            "indexedAt": "2026-11-24T02:53:29.000005Z",
        },
    }


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_valid_traceparent_is_kept(flags: str):
    traceparent = f"00-{'a' * 32}-{'b' * 16}-{flags}"
    assert trace_context(traceparent) == traceparent


@pytest.mark.parametrize(
    "junk",
    [
        None,
        "",
        "junk",
        "junk01",
        f"00-{'a' * 32}-{'b' * 16}-01\r\nNats-Rollup: all",
        f"00-{'A' * 32}-{'b' * 16}-01",
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"01-{'a' * 32}-{'b' * 16}-01",
    ],
)
def test_an_invalid_traceparent_is_dropped_from_the_event(junk: str | None):
    uri = RecordUri(Did("did:plc:a"), Nsid("com.example.post"), RecordKey("01KAV3XG8J0000000000000000"))
    record = NewRecord(uri, "bafy", b"{}", NOW, "1.2.0")
    assert record_created(record, event_id="01E", correlation_id="c-1", traceparent=junk).traceparent is None


def test_a_media_finalized_event_has_the_verified_checksum():
    asset = Asset(AssetId("01KAV3XG8J0000000000000000"), Did("did:plc:a"), "image/png", 9, NOW, LATER)
    event = media_finalized(asset, checksum="ab" * 32, finalized_at=LATER, event_id="01E", correlation_id="c-1")
    assert event.subject == "cdv.media.finalized"
    assert (event.event_id, event.did) == ("01E", "did:plc:a")
    assert event.occurred_at == LATER
    assert json.loads(event.envelope) == {
        "type": "cdv.media.finalized",
        "version": "1.0.0",
        "occurredAt": "2026-11-24T02:54:00.000000Z",
        "correlationId": "c-1",
        "payload": {
            "assetId": "01KAV3XG8J0000000000000000",
            "uri": "at://did:plc:a/com.registryaccord.media.asset/01KAV3XG8J0000000000000000",
            "did": "did:plc:a",
            "mimeType": "image/png",
            "size": 9,
            "checksum": "ab" * 32,
            "createdAt": "2026-11-24T02:53:29.000005Z",
        },
    }
