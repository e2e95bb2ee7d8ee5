"""`cdv doctor`: writes one test record and one test asset through every configured dependency, then removes them.

Each step has a time limit and reports its duration; a step that fails names the setting behind it. Events that a stream
has stored are not removed: the reconciliation would take a removed message for a loss. They are not published again,
because their op-log entries are removed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from cdv_adapters.addresses import require_address
from cdv_adapters.bootstrap import DOCTOR_DID_PREFIX, open_service, remove_doctor_data
from cdv_adapters.container import local_issuer, open_bus
from cdv_adapters.service import Service
from cdv_adapters.settings import Settings
from cdv_core.domain.identifiers import Did
from cdv_core.domain.tokens import read_token
from cdv_core.errors import CannotStart, CdvError, TokenExpired, TokenInvalid, TokenMalformed, Unavailable
from cdv_core.ports.events import StreamState
from cdv_core.ports.outbox import OpLogEntry
from cdv_http.commands.doctor_vaults import ExaminedVault, OpenedVault, ServedVault, UnexpectedResponse
from cdv_http.commands.events import end_of_log

_STEP_SECONDS: Final = 15  # ours: longer than the timeout of any adapter
_STEP_SECONDS_MAX: Final = 3600  # ours
_TOKEN_SECONDS: Final = 300
_RETRY_SECONDS: Final = 0.1
_PAGE_ENTRIES: Final = 1000
# A PNG of one pixel.
_PIXEL: Final = bytes.fromhex(
    # pragma: allowlist nextline secret
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001"
    "e221bc330000000049454e44ae426082"  # pragma: allowlist secret
)

Result = TypeVar("Result")


def add_parser(commands: Any, settings: Callable[[], Settings]) -> None:  # noqa: ANN401 - argparse has no public name
    """Add `doctor` to the subparsers."""
    command = commands.add_parser(
        "doctor", help="write and read back a test record and asset through every dependency, then remove them"
    )
    command.add_argument(
        "--url",
        type=_address,
        help="examine the vault served at this URL instead of the one these settings would serve",
    )
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="a file with a token of your issuer, to be verified and used"
    )
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=_STEP_SECONDS,
        metavar="SECONDS",
        help="time limit of each step (default 15)",
    )
    command.set_defaults(run=lambda arguments: asyncio.run(_doctor(settings(), arguments)))


def _address(text: str) -> str:
    try:
        require_address(text, {"http", "https"}, "not an http:// or https:// address")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _STEP_SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"not a number of seconds from 1 to {_STEP_SECONDS_MAX}")
    return int(text)


async def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    report = _Report(settings, arguments.timeout)
    did = Did(f"{DOCTOR_DID_PREFIX}{secrets.token_hex(8)}")
    token = None if arguments.token_file is None else _read(arguments.token_file)
    if token is None and settings.jwt_issuer is None:
        token = local_issuer(settings).issue(did, _TOKEN_SECONDS, datetime.now(UTC))
    if arguments.url is None:
        await _examine_opened(settings, report, did, token)
    elif token is None:
        report.failed("token", "required with --url", "--token-file: name a file with a token of CDV_JWT_ISSUER")
    else:
        await _examine_served(settings, report, arguments.url, token)
    if report.output_error is not None and report.code == 0:
        raise report.output_error
    return report.code


async def _examine_served(settings: Settings, report: _Report, url: str, token: str) -> None:
    did = Did.parse(str(read_token(token).claims.get("sub")), "sub")
    vault = ServedVault(url, did, token)
    async with AsyncExitStack() as stack:
        ends: dict[str, int] | None = None
        if settings.nats_url is not None:
            bus = await stack.enter_async_context(open_bus(settings))
            ends = await report.step("streams", lambda: _ends(bus), depends_on="events")
        await _examine_records(report, vault)
        await _examine_media(report, vault, settings)
        if ends is not None and vault.published:
            await report.step("event", lambda: _wait_for_events(bus, ends, vault.published), depends_on="events")
    report.note(f"remains: the record and the asset of {did}; the API cannot remove them")


class _Streams(Protocol):
    async def check(self) -> None: ...

    async def streams(self) -> list[StreamState]: ...

    def envelopes(self, stream: StreamState, after: int) -> AsyncGenerator[bytes]: ...


async def _ends(bus: _Streams) -> dict[str, int]:
    await bus.check()
    return {state.name: state.last_sequence for state in await bus.streams()}


async def _wait_for_events(bus: _Streams, ends: Mapping[str, int], uris: Collection[str]) -> None:
    """Return when the streams have an event for each of `uris`, after the sequences in `ends`."""
    missing = set(uris)
    while missing:
        for state in await bus.streams():
            async with aclosing(bus.envelopes(state, ends[state.name])) as envelopes:
                async for envelope in envelopes:
                    missing.discard(json.loads(envelope)["payload"]["uri"])
        await asyncio.sleep(_RETRY_SECONDS)


async def _examine_opened(settings: Settings, report: _Report, did: Did, token: str | None) -> None:
    async with AsyncExitStack() as stack:
        service = await report.step(
            "open",
            lambda: stack.enter_async_context(open_service(settings, owns_database=False)),
            depends_on="database",
        )
        if service is None:
            return
        await report.step("token", lambda: _verify(service, token), depends_on="issuer")
        bucket = [task for task in service.background_tasks if task.prepares == "object_store"]
        for task in bucket:
            await report.step(task.name, task.run, depends_on="object_store")
        before = await report.step("op log", lambda: end_of_log(service.outbox), depends_on="database")
        if before is None:
            return
        vault = OpenedVault(service, did)
        try:
            await _examine_records(report, vault)
            if all(task.name in report.done for task in bucket):
                await _examine_media(report, vault, settings)
            events = ("record" in report.done) + ("finalize" in report.done)
            if service.bus is not None and events:
                seen = _wait_until_published(service, before, did, events)
                await report.step("event", lambda: seen, depends_on="events")
        finally:
            written = await report.step("entries", lambda: _entries(service, before, did), depends_on="database")
            published = sum(it.stream_sequence is not None for it in written or ())
            sequences = [it.sequence for it in written or ()]
            await report.step(
                "cleanup", lambda: remove_doctor_data(settings, did, vault.assets, sequences), depends_on="database"
            )
            if published:
                report.note(f"remain: {published} published events of {did}, until the streams drop them")


async def _examine_records(report: _Report, vault: ExaminedVault) -> None:
    key = secrets.token_hex(16)
    receipt = await report.step("record", lambda: vault.write(key), depends_on="database")
    if receipt is not None:
        again = await report.step("retry", lambda: vault.write(key), depends_on="database")
        report.check("retry", again in {None, receipt}, "the retry got another response than the first request")
        listed = await report.step("listing", vault.list, depends_on="database")
        report.check("listing", listed is None or receipt in listed, "the record is not in the listing")


async def _examine_media(report: _Report, vault: ExaminedVault, settings: Settings) -> None:
    # A type that the settings allow. If that is not PNG, plain text: its bytes contradict no declared type.
    png = "image/png" in settings.allowed_mime_types
    mime_type, content = ("image/png", _PIXEL) if png else (settings.allowed_mime_types[0], b"cdv doctor")
    ticket = await report.step(
        "upload init", lambda: vault.announce(mime_type, len(content)), depends_on="object_store"
    )
    if ticket is None:
        return
    asset_id, url = ticket
    await report.step("upload", lambda: vault.upload(url, content), depends_on="object_store")
    if "upload" in report.done:
        sha256 = hashlib.sha256(content).hexdigest()
        await report.step("finalize", lambda: vault.finalize(asset_id, sha256), depends_on="object_store")
    if "finalize" in report.done:
        read = await report.step("content", lambda: vault.content(asset_id), depends_on="object_store")
        report.check("content", read in {None, content}, "the bytes are not those that were uploaded")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise CannotStart(f"read {file}", str(error), "name a readable file with a token") from error


async def _verify(service: Service, token: str | None) -> None:
    if token is not None:
        await service.tokens.verify(token)
        return
    for dependency in service.dependencies:
        if dependency.name == "issuer":  # without a token, check at least that its keys can be fetched
            await dependency.check()


async def _entries(service: Service, after: int, did: Did) -> list[OpLogEntry]:
    found: list[OpLogEntry] = []
    while page := await service.outbox.read(after, _PAGE_ENTRIES):
        found += [entry for entry in page if entry.event.did == did]
        after = page[-1].sequence
    return found


async def _wait_until_published(service: Service, before: int, did: Did, count: int) -> None:
    """Return when the events are published according to both the op log and the streams. Raises: Unavailable."""
    assert service.bus is not None, "called only with a broker"  # noqa: S101
    assert service.relay is not None, "configured together with the bus"  # noqa: S101
    for dependency in service.dependencies:
        if dependency.name == "events":
            await dependency.check()
    while True:
        await service.relay.run_once()  # or another process's relay, since only one runs at a time
        ours = await _entries(service, before, did)
        if len(ours) == count and all(entry.stream_sequence is not None for entry in ours):
            break
        await asyncio.sleep(_RETRY_SECONDS)
    missing = {entry.event.event_id for entry in ours}
    for state in await service.bus.streams():
        sequences = [it.stream_sequence or 0 for it in ours if state.carries(it.event)]
        if sequences:
            async with aclosing(service.bus.message_ids(state, min(sequences) - 1)) as ids:
                async for sequence, event_id, _ in ids:
                    missing.discard(event_id)
                    if sequence >= max(sequences):
                        break
    if missing:
        raise UnexpectedResponse("acknowledged by the stream, but not found in it", "events")


class _Report:
    """Prints a line per step. `done`: the successful steps. `code`: the exit code.

    `output_error`: why a line could not be printed. The steps continue: what was written must be removed.
    """

    def __init__(self, settings: Settings, step_seconds: int) -> None:
        self._settings = settings
        self._step_seconds = step_seconds
        self.done: set[str] = set()
        self.code = 0
        self.output_error: OSError | None = None

    async def step(self, name: str, do: Callable[[], Awaitable[Result]], *, depends_on: str) -> Result | None:
        """Return the result of `do`; None if it failed. `depends_on`: the dependency to blame by default."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._step_seconds):
                result = await do()
        except TimeoutError:
            self.failed(name, f"no answer within {self._step_seconds} s", remedy(self._settings, depends_on), started)
        except UnexpectedResponse as error:
            self.failed(name, str(error), remedy(self._settings, error.dependency or depends_on), started)
        except CannotStart as error:
            self.failed(name, f"cannot {error.what}: {error.reason}", error.remedy, started)
        except CdvError as error:
            cause = error.dependency if isinstance(error, Unavailable) else depends_on
            if isinstance(error, TokenMalformed | TokenExpired | TokenInvalid):
                cause = "token"
            self.failed(name, str(error.__cause__ or "") or str(error), remedy(self._settings, cause), started)
        else:
            self._print(f"ok    {name:<19} {time.monotonic() - started:7.3f} s")
            self.done.add(name)
            return result
        return None

    def check(self, name: str, holds: bool, problem: str) -> None:
        if not holds:
            self.failed(name, problem, "this is a defect: please report it")

    def failed(self, name: str, problem: str, remedy: str, started: float | None = None) -> None:
        self.code = 1
        took = "" if started is None else f"{time.monotonic() - started:7.3f} s"
        self._print(f"FAIL  {name:<19} {took:>9}  {' '.join(problem.split())}; {remedy}")

    def note(self, text: str) -> None:
        self._print(f"note  {text}")

    def _print(self, line: str) -> None:
        if self.output_error is None:
            try:
                print(line, flush=True)
            except OSError as error:
                self.output_error = error


def remedy(settings: Settings, dependency: str) -> str:
    """Return what to do about a failing dependency: the settings behind it."""
    embedded = "CDV_DATA_DIR: let this user read and write there, and check that the disk is not full"
    if dependency == "database":
        return embedded if settings.db_dsn is None else "CDV_DB_DSN: start Postgres, or correct its address or role"
    if dependency == "object_store":
        return (
            embedded
            if settings.s3_endpoint is None
            else "CDV_S3_ENDPOINT, CDV_S3_BUCKET, or the keys: start the store, or correct them"
        )
    return {
        "events": "CDV_NATS_URL: start NATS, or correct its address or CDV_NATS_CREDS",
        "issuer": "CDV_JWKS_URL or CDV_JWT_ISSUER: start the issuer, or correct its address",
        "token": "--token-file: use a valid token of CDV_JWT_ISSUER for CDV_JWT_AUDIENCE",
        "schemas": "CDV_SPECS_URL: correct the address",
        "rate_limits": "CDV_RATE_LIMIT_STORAGE: start the store, or correct its address",
        # pragma: allowlist nextline secret
        "secret_source": "correct the reference in the setting: see docs/configuration.md on secrets",
        "service": "--url: check that a vault is served there, and that it trusts the token's issuer",
    }.get(dependency, "see the message")
