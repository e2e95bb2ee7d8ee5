"""Defects of events."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect
from tests.conformance.defects_records import STORED_THOUGH_REFUSED

EVENTS_DOMAIN = "cdv_core/domain/events.py"
RELAY = "cdv_core/use_cases/relay.py"
NATS = "cdv_adapters/events/nats.py"
PUBLICATION = "cdv_adapters/events/nats_publication.py"
STREAMS = "cdv_adapters/events/nats_streams.py"
CONTAINER = "cdv_adapters/container.py"

_PENDING = "        pending = [entry for entry in entries if entry.sequence not in publications]\n"
_FIFTH_LOST = """\
        for entry in entries:
            if entry.sequence % 5 == 0:
                publications[entry.sequence] = Publication(entry.sequence, 0, self._clock.now())
"""
_PUBLISH = (
    "        return await Publication(self._connection, self._timeout_seconds, self._batching).publish(entries, onto)\n"
)

EVENTS: list[Defect] = [
    defect(
        "subject-of-one-token",
        "The streams take cdv.records.* and cdv.media.*, but a record's subject has more tokens than * matches.",
        "EVENT-001 EVENT-002",
        (STREAMS, '"subjects": [f"{STREAMS[name]}>"]', '"subjects": [f"{STREAMS[name]}*"]'),
        trap="A stream subject cdv.records.* matches one token",
        waits=True,
    ),
    defect(
        "one-consumer",
        "The durable consumer DURABLE_DEVTOOLS is missing.",
        "EVENT-001",
        (STREAMS, '("GATEWAY_FANOUT", "DURABLE_DEVTOOLS")', '("GATEWAY_FANOUT",)'),
    ),
    defect(
        "failures-logged-only",
        "Every fifth event is marked as published without being published.",
        "EVENT-006",
        (RELAY, _PENDING, f"{_FIFTH_LOST}{_PENDING}"),
        trap="Publishing after commit with only a warning on failure loses events",
    ),
    defect(
        "published-up-to",
        "The relay continues after the highest sequence that it published, and skips lower ones committed later.",
        "EVENT-006",
        (
            "cdv_adapters/outbox/sqlite.py",
            'f"{_SELECT} WHERE stream_sequence IS NULL ORDER BY',
            """f"{_SELECT} WHERE sequence > (SELECT coalesce(max(sequence), 0) FROM op_log WHERE stream_sequence > 0)"
            f" AND (sequence % 5 > 0 OR occurred_at < {to_micros(now) - 100_000}) ORDER BY""",
        ),
        trap="A relay that remembers what it published up to loses what commits later",
        waits=True,
    ),
    defect(
        "no-op-publisher",
        "The relay is not started, as if the broker had been down when the service started.",
        "EVENT-002",
        (
            "cdv_http/app.py",
            "            if service.relay is not None:\n",
            "            up = False\n            if service.relay is not None and up:\n",
        ),
        trap="A broker that is down at start leaves a no-op publisher",
        waits=True,
    ),
    defect(
        "deduplicated-by-correlation-id",
        "Nats-Msg-Id is the correlation id.",
        "EVENT-009",
        (
            PUBLICATION,
            '{"Nats-Msg-Id": message_id, **_expect_headers(end.name, last)}',
            '{"Nats-Msg-Id": json.loads(entry.event.envelope)["correlationId"], **_expect_headers(end.name, last)}',
        ),
        (
            PUBLICATION,
            "            stored_id = await self._event_id_at(end, ack.seq) if ack and ack.duplicate else None\n",
            "            stored_id = entry.event.event_id\n",
        ),
        trap="Deduplicating on a client-supplied correlation id",
    ),
    defect(
        "op-log-unwritten",
        "Nothing is written to the op log.",
        "EVENT-002",
        (
            "cdv_adapters/database/sqlite.py",
            '    connection.execute(\n        "INSERT INTO op_log',
            '    return\n    connection.execute(\n        "INSERT INTO op_log',
        ),
        trap="An op-log table nobody writes",
        waits=True,
    ),
    defect(
        "another-subject",
        "Records are published on cdv.records.{collection}, without .created.",
        "EVENT-002",
        (EVENTS_DOMAIN, 'f"cdv.records.{uri.collection}.created"', 'f"cdv.records.{uri.collection}"'),
        waits=True,
    ),
    defect(
        "envelope-without-version",
        "The envelope has no member version.",
        "EVENT-003",
        (EVENTS_DOMAIN, "    type: str\n    version: str\n", "    type: str\n    envelope_version: str\n"),
    ),
    defect(
        "another-rkey",
        "The rkey of an event is the record's URI.",
        "EVENT-004",
        (EVENTS_DOMAIN, "str(uri.collection), str(uri.rkey)", "str(uri.collection), str(uri)"),
    ),
    defect(
        "correlation-id-invented",
        "An event has another correlation id than its request.",
        "EVENT-005",
        (
            "cdv_core/use_cases/records.py",
            "correlation_id=correlation_id or fresh",
            "correlation_id=fresh",
        ),
    ),
    defect(
        "events-reversed",
        "Pending events are published newest first.",
        "EVENT-006",
        (RELAY, _PENDING, _PENDING.replace("publications]", "publications][::-1]")),
    ),
    defect(
        "told-twice",
        "Every event is published twice, with different Nats-Msg-Ids.",
        "EVENT-006 EVENT-007",
        (
            NATS,
            _PUBLISH,
            _PUBLISH.replace("return", "answers =")
            + """        for entry, answer in zip(entries, answers, strict=True):
            if answer is not None:
                headers = {"Nats-Msg-Id": entry.event.event_id + "-again"}
                await self._connection.client.publish(entry.event.subject, entry.event.envelope, headers=headers)
        return answers
""",
        ),
    ),
    defect(
        "refused-and-announced",
        "An event is published for a record that is rejected by its schema or its cid.",
        "EVENT-008",
        STORED_THOUGH_REFUSED,
    ),
    defect(
        "media-subject",
        "Finalised assets are published on cdv.media.created.",
        "EVENT-010",
        (EVENTS_DOMAIN, '"cdv.media.finalized"', '"cdv.media.created"'),
        waits=True,
    ),
    defect(
        "media-told-twice",
        "Finalising an asset again publishes a second event.",
        "EVENT-011",
        (
            "cdv_core/use_cases/media.py",
            """        if asset.state is AssetState.FINALIZED:
            return _with_checksum(asset, checksum)
        if self""",
            "        if self",
        ),
        ("cdv_adapters/media/sqlite.py", "            if finalized:\n", "            if True:\n"),
    ),
]
