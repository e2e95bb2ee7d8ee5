"""Events: one envelope per committed write, encoded before it is stored."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec

from cdv_core.domain.characters import plain_str
from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import Asset
from cdv_core.domain.records import NewRecord
from cdv_core.domain.times import format_time

EVENT_VERSION: Final = "1.0.0"  # of the envelope and its payloads
MEDIA_FINALIZED: Final = "cdv.media.finalized"  # spec: events
# https://www.w3.org/TR/trace-context/, version 00. All-zero ids are invalid.
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Event(msgspec.Struct, frozen=True):
    """An event, to be stored in the op log. `event_id`: a ULID, the Nats-Msg-Id. `envelope`: encoded JSON, UTF-8.

    `traceparent`: the W3C trace context of the request that caused it, for consumers; None if it had none.
    """

    event_id: str
    did: Did
    subject: str
    envelope: bytes
    occurred_at: datetime
    traceparent: str | None = None


class _RecordPayload(msgspec.Struct, rename="camel"):
    uri: str
    cid: str
    did: str
    collection: str
    rkey: str
    schema_version: str
    indexed_at: str


class _MediaPayload(msgspec.Struct, rename="camel"):
    asset_id: str
    uri: str
    did: str
    mime_type: str
    size: int
    checksum: str
    created_at: str


class _Envelope(msgspec.Struct, rename="camel"):
    type: str
    version: str
    occurred_at: str
    correlation_id: str
    payload: _RecordPayload | _MediaPayload


def trace_context(text: str | None) -> str | None:
    """Return `text` if it is a valid trace context of version 00, safe for headers and spans, else None."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def record_created(record: NewRecord, *, event_id: str, correlation_id: str, traceparent: str | None = None) -> Event:
    """Return the event of a record's creation, with subject `cdv.records.{collection}.created`."""
    uri, at = record.uri, format_time(record.indexed_at)
    # str(): msgspec does not encode subtypes of str.
    payload = _RecordPayload(
        str(uri), record.cid, str(uri.did), str(uri.collection), str(uri.rkey), record.schema_version, at
    )
    subject = f"cdv.records.{uri.collection}.created"
    envelope = msgspec.json.encode(_Envelope(subject, EVENT_VERSION, at, plain_str(correlation_id), payload))
    return Event(event_id, uri.did, subject, envelope, record.indexed_at, trace_context(traceparent))


def media_finalized(
    asset: Asset,
    *,
    checksum: str,
    finalized_at: datetime,
    event_id: str,
    correlation_id: str,
    traceparent: str | None = None,
) -> Event:
    """Return the event of an asset's finalisation, with subject `cdv.media.finalized`."""
    payload = _MediaPayload(
        str(asset.asset_id),
        str(asset.uri),
        str(asset.did),
        asset.mime_type,
        asset.size_bytes,
        str(checksum),
        format_time(asset.created_at),
    )
    at = format_time(finalized_at)
    envelope = msgspec.json.encode(_Envelope(MEDIA_FINALIZED, EVENT_VERSION, at, plain_str(correlation_id), payload))
    return Event(event_id, asset.did, MEDIA_FINALIZED, envelope, finalized_at, trace_context(traceparent))
