"""Traces from the request to the SQL statement and the event, recorded only if OpenTelemetry is configured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nats
import nats.js.errors
import pytest
from loguru import logger
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from pydantic import SecretStr

from cdv_adapters import tracing
from cdv_adapters.spans import Tracing
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys
from cdv_core.errors import Unavailable
from tests.http.api import PROFILE, Api, data, media_in, refused, serving
from tests.http.otlp import collecting
from tests.http.running import RunningVault, environment

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Spans:
    """The spans that have been exported."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.all() if span.name == name]
        return found


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    tracing.use(Tracing(TracerProvider(), SimpleSpanProcessor(exporter)))
    yield Spans(exporter)
    tracing.use(None)


@pytest.fixture
async def api(spans: Spans, anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A traced vault. `spans` comes first, because the vault decides when it opens whether it traces."""
    async with serving(tmp_path / "vault") as opened:
        yield opened


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def traceparent(span: ReadableSpan) -> str:
    return f"00-{trace_id(span)}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == of.context.span_id and trace_id(span) == trace_id(of)


async def test_a_request_is_a_span_in_the_clients_trace_and_its_operations_are_children(api: Api, spans: Spans) -> None:
    ada = api.creator()
    answer = await ada.create(headers={"traceparent": PARENT})
    request = spans.named("POST /v1/repo/record")
    assert (trace_id(request), request.parent.span_id) == (TRACE, 0xB7AD6B7169203331)  # type: ignore[union-attr]
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/repo/record",
        "http.response.status_code": 200,
    }
    above = request
    for name in ("Records.create", "SqliteDatabase.write"):
        assert is_child(spans.named(name), above), name
        above = spans.named(name)
    assert answer.headers["x-correlation-id"] == TRACE
    (entry,) = [entry for entry in await api.service.outbox.read(0, 100) if entry.event.did == ada.did]
    assert entry.event.traceparent == traceparent(request)


async def test_without_a_client_trace_the_new_trace_id_is_the_correlation_id(api: Api, spans: Spans) -> None:
    answer = await api.creator().create()
    assert answer.headers["x-correlation-id"] == trace_id(spans.named("POST /v1/repo/record"))
    answer = await api.creator().create(headers={"X-Correlation-Id": "mine"})
    assert answer.headers["x-correlation-id"] == "mine"


async def test_a_refusals_span_has_its_code_and_an_outages_span_is_an_error(api: Api, spans: Spans) -> None:
    refused(await api.creator().create(record={}), 400, "CDV_SCHEMA_REJECT")
    for name in ("POST /v1/repo/record", "Records.create"):
        span = spans.named(name)
        assert (span.attributes or {})["error.type"] == "CDV_SCHEMA_REJECT"
        assert span.status.is_unset

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("database")

    api.service.vault.records.list_json = away  # type: ignore[method-assign, assignment]
    await api.creator().list()
    span = spans.named("GET /v1/repo/listRecords")
    assert (span.attributes or {})["error.type"] == "CDV_UNAVAILABLE"
    assert not span.status.is_ok
    assert not span.status.is_unset


async def test_media_and_hostile_requests_have_spans_of_bounded_names(api: Api, spans: Spans) -> None:
    await api.creator().uploaded()
    assert is_child(spans.named("ServedMedia.finalize"), spans.named("POST /v1/media/finalize"))
    assert is_child(spans.named("FilesystemBlobStore.promote"), spans.named("ServedMedia.finalize"))
    await api.http.request("CHOSEN", "/v1/chosen?chosen=1")
    assert spans.all()[-1].name == "_OTHER unmatched"
    assert all("chosen" not in span.to_json().lower() for span in spans.all())


async def test_probes_and_background_tasks_are_not_traced(api: Api, spans: Spans) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await api.http.get(path)).status_code == 200
    for task in api.service.background_tasks:
        await task.run()
    assert spans.all() == []


async def test_a_trace_that_the_client_does_not_sample_is_propagated_but_not_recorded(api: Api, spans: Spans) -> None:
    ada = api.creator()
    data(await ada.create(headers={"traceparent": PARENT.removesuffix("1") + "0"}))
    assert spans.all() == []
    (entry,) = [entry for entry in await api.service.outbox.read(0, 100) if entry.event.did == ada.did]
    assert entry.event.traceparent is not None
    assert entry.event.traceparent.startswith(f"00-{TRACE}-")
    assert entry.event.traceparent.endswith("-00")


def test_new_traces_are_sampled_as_the_sampler_decides_by_their_ids() -> None:
    exporter, sampler = InMemorySpanExporter(), ParentBased(TraceIdRatioBased(0.3))
    tracing.use(Tracing(TracerProvider(sampler=sampler), SimpleSpanProcessor(exporter)))
    begun: list[str] = []
    for _ in range(200):
        with tracing.span("request", "server") as one:
            begun.append(str(one.traceparent))
            with tracing.span("child"):
                pass
    tracing.use(None)
    ids = [int(each.split("-")[1], 16) for each in begun]
    assert len(set(ids)) == len({each.split("-")[2] for each in begun}) == 200
    chosen = {each for each in ids if sampler.should_sample(None, each, "request").decision.is_sampled()}
    assert 0 < len(chosen) < 200
    assert {int(each.split("-")[1], 16) for each in begun if each.endswith("-01")} == chosen
    spans = Spans(exporter).all()
    assert sorted(span.context.trace_id for span in spans) == sorted([*chosen, *chosen])
    roots = {trace_id(span): span for span in spans if span.name == "request"}
    assert all(is_child(span, roots[trace_id(span)]) for span in spans if span.name == "child")


async def test_the_issuers_keys_are_fetched_in_a_span(spans: Spans) -> None:
    keys = IssuerKeys(lambda: FetchedDocument(b'{"keys": []}'))
    await keys.check()
    await keys.find("unknown")
    assert {span.name for span in spans.all()} == {"fetch the issuer's keys"}
    await keys.aclose()


@asynccontextmanager
async def in_production(folder: Path, dsn: str, nats_url: str) -> AsyncIterator[Api]:
    async with serving(folder, db_dsn=SecretStr(dsn), nats_url=SecretStr(nats_url)) as opened:
        yield opened


async def test_a_trace_is_propagated_through_postgres_and_the_op_log_to_the_consumer(
    spans: Spans, anyio_backend: str, tmp_path: Path, postgres_dsn: str, nats_url: str
) -> None:
    async with in_production(tmp_path / "vault", postgres_dsn, nats_url) as api:
        creators = [api.creator() for _ in range(8)]
        answers = await asyncio.gather(*(creator.create() for creator in creators))
        client = await nats.connect(nats_url)
        async with asyncio.timeout(20):  # the streams are made as soon as the broker is reached
            while True:
                try:
                    await client.jetstream().stream_info("RA_RECORDS")
                    break
                except nats.js.errors.NotFoundError:
                    await asyncio.sleep(0.05)
        subscription = await client.jetstream().subscribe("cdv.records.>", ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=20) for _ in creators]
        await client.close()
    requests = {trace_id(span): span for span in spans.all() if span.name == "POST /v1/repo/record"}
    published = {trace_id(span): span for span in spans.all() if span.name == "publish"}
    assert set(requests) == set(published) == {answer.headers["x-correlation-id"] for answer in answers}
    for message in messages:
        correlation_id = json.loads(message.data)["correlationId"]
        assert is_child(published[correlation_id], requests[correlation_id])
        assert (message.headers or {})["traceparent"] == traceparent(published[correlation_id])
    # Each create is in the trace of one statement: as its parent or as a link of it.
    groups = [span for span in spans.all() if span.name == "group commit"]
    assert {trace_id(span) for span in groups} | {
        f"{link.context.trace_id:032x}" for span in groups for link in span.links
    } == set(requests)
    assert len(groups) < len(creators)
    statements = [span for span in spans.all() if span.name == "PostgresDatabase.rows" and is_child(span, groups[0])]
    assert "INSERT INTO records" in str((statements[0].attributes or {})["db.query.text"])


async def test_s3_calls_are_spans(spans: Spans, anyio_backend: str, tmp_path: Path, s3_bucket: Any) -> None:
    async with serving(tmp_path / "vault", **media_in(s3_bucket)) as api:
        ada = api.creator()
        ticket = data(await ada.init())
        refused(await ada.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")
    assert is_child(spans.named("S3BlobStore.inspect"), spans.named("Media.finalize"))


async def test_an_unsampled_trace_is_propagated_through_a_group_commit_but_not_recorded(
    spans: Spans, anyio_backend: str, tmp_path: Path, postgres_dsn: str, nats_url: str
) -> None:
    unsampled = f"{PARENT[:-2]}00"
    async with in_production(tmp_path / "vault", postgres_dsn, nats_url) as api:
        creators = [api.creator() for _ in range(9)]
        data(await creators[0].create(headers={"traceparent": unsampled}))
        assert "group commit" not in {span.name for span in spans.all()}
        # All at once: those that are traced are in the middle of a group.
        answers = await asyncio.gather(
            *(each.create(headers={"traceparent": PARENT if each in creators[4:6] else unsampled}) for each in creators)
        )
        entries = [
            entry
            for entry in await api.service.outbox.read(0, 100)
            if entry.event.did in {each.did for each in creators}
        ]
    assert {answer.status_code for answer in answers} == {200}
    assert {str(entry.event.traceparent)[-2:] for entry in entries} == {"00", "01"}
    recorded = [span.name for span in spans.all()]
    assert recorded.count("POST /v1/repo/record") == recorded.count("Records.create") == 2
    group = spans.named("group commit")
    assert "INSERT INTO records" in str(
        [span.attributes for span in spans.all() if span.name == "PostgresDatabase.rows" and is_child(span, group)]
    )
    assert all(span.context.trace_flags.sampled for span in spans.all())


def test_the_opentelemetry_sdk_is_imported_only_if_configured(tmp_path: Path) -> None:
    program = (
        # The API alone is also imported by other libraries, where it is installed.
        "import sys\nfrom cdv_http.app import create_app\nfrom cdv_adapters import tracing\ncreate_app()\n"
        "print(any(name.startswith('opentelemetry.sdk') for name in sys.modules), tracing.span('x') is tracing.NO_SPAN)"
    )

    def run(**settings: str) -> str:
        answer = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(tmp_path, **settings),
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.strip()

    assert run() == "False True"
    assert run(OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "False True"
    assert run(OTEL_TRACES_EXPORTER="none") == "False True"
    assert run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "True False"


def test_without_the_sdk_a_warning_is_logged_and_tracing_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vault")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "cdv_adapters.spans")  # so that it is imported again
    lines: list[str] = []
    sink = logger.add(lines.append)
    tracing.start()
    logger.remove(sink)
    assert tracing.span("x") is tracing.NO_SPAN
    assert "install the extra `otel`" in lines[0]


def test_an_unknown_exporter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    monkeypatch.setattr("cdv_adapters.spans.tracing_to", lambda _: None)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    tracing.start()
    logger.remove(sink)
    assert lines == ["OTEL_TRACES_EXPORTER=jaeger is not known (otlp, console, none): traces are exported by OTLP\n"]


async def test_shutdown_waits_for_a_hanging_collector_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_STOP_SECONDS", 0.01)
    released = asyncio.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            asyncio.run_coroutine_threadsafe(released.wait(), loop).result()

    loop = asyncio.get_running_loop()
    tracing.use(Tracing(TracerProvider(shutdown_on_exit=False), Hanging()))
    async with asyncio.timeout(5):
        await tracing.stop()
    released.set()
    assert tracing.span("x") is tracing.NO_SPAN


async def test_the_log_line_spans_and_event_of_a_request_share_one_id(tmp_path: Path, nats_url: str) -> None:
    with collecting() as collector:
        vault = RunningVault(
            tmp_path / "data",
            CDV_NATS_URL=nats_url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_RESOURCE_ATTRIBUTES="service.name=vault-of-the-test",
        )
        try:
            body = {"did": "did:example:ada", "collection": PROFILE, "record": {"displayName": "Ada"}}
            headers = {"Authorization": f"Bearer {vault.token('did:example:ada')}"}
            async with httpx.AsyncClient(base_url=vault.base, headers=headers) as http:
                answer = await http.post("/v1/repo/record", json=body)
            one_id = answer.headers["x-correlation-id"]
            client = await nats.connect(nats_url)
            subscription = await client.jetstream().subscribe("cdv.records.>", ordered_consumer=True)
            message = await subscription.next_msg(timeout=20)
            await client.close()
            assert (line := next(line for line in vault.log.splitlines() if "POST" in line)).endswith(one_id), line
        finally:
            assert await asyncio.to_thread(vault.stop) == 0  # which sends what is left
            vault.kill()
    names = {span.name for span in collector.spans if span.trace_id.hex() == one_id}
    assert names >= {"POST /v1/repo/record", "Records.create", "SqliteDatabase.write", "publish"}
    (publish,) = [span for span in collector.spans if span.name == "publish"]
    assert json.loads(message.data)["correlationId"] == one_id
    assert (message.headers or {})["traceparent"].startswith(f"00-{one_id}-{publish.span_id.hex()}-")
    assert collector.services == {"vault-of-the-test"}
