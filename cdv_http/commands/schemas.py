"""`cdv schemas`: inspect the catalogue, check a change to it, and rehearse a change on the stored records."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeAlias

from cdv_adapters.container import read_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused, parse_document
from cdv_core.domain.compatibility import broken_promises, compare
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.json_schema import SchemaDocument, SchemaRefused
from cdv_core.domain.lexicon import is_lexicon, translate
from cdv_core.domain.records import StoredRecord
from cdv_core.domain.rehearsal import Rehearsal
from cdv_core.domain.schemas import Catalogue, Collection, Schema
from cdv_core.domain.times import format_time
from cdv_core.domain.validators import compile_validator
from cdv_core.errors import CannotStart, InvalidField, SchemaVersionUnknown

_FAILED, _USAGE_ERROR = 1, 2
_PROGRESS_RECORDS: Final = 10_000

SpecsUrlOf: TypeAlias = Callable[[], str | None]
OpenRecords: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[StoredRecord]]]


def add_parser(
    commands: Any,  # noqa: ANN401 - what add_subparsers returns, which argparse gives no public name
    specs_url: SpecsUrlOf,
    open_records: OpenRecords,
) -> None:
    """Add `schemas` to the subparsers.

    `specs_url`: returns the catalogue's URL from the settings, None for the bundled one. `open_records`: opens the
    store and yields every record in it.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "schemas", help="inspect the schema catalogue, and check changes to it"
    )
    parser.set_defaults(run=lambda it: _print_errors(lambda _: list_schemas(read_catalogue(specs_url())), it))
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", description="without one: list")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = subcommands.add_parser(name, help=text, description=text)
        command.set_defaults(run=lambda arguments: _print_errors(run, arguments))
        return command

    def catalogue(arguments: argparse.Namespace) -> Catalogue:
        return read_catalogue(arguments.specs_url or specs_url())

    command = add("list", lambda it: list_schemas(catalogue(it)), "list the collections and their versions")
    _with_url(command)

    command = add("show", lambda it: show(catalogue(it), it.collection, it.version), "print a schema document")
    _with_url(command)
    command.add_argument("collection", help="such as com.registryaccord.feed.post")
    command.add_argument("version", nargs="?", help="such as 1.0.0; without it, the latest stable one")

    command = add(
        "validate",
        lambda it: _validate(it, catalogue),
        "check whether a file is a usable schema, or with --collection a valid record",
    )
    _with_url(command)
    command.add_argument("file", type=Path, help="a JSON Schema or a Lexicon; with --collection, a record")
    command.add_argument("--collection", help="check the file as a record of this collection instead")
    command.add_argument(
        "--schema-version",
        metavar="VERSION",
        help="with --collection: check against this version, not the latest stable one",
    )

    command = add(
        "diff", lambda it: diff(it.old, it.new), "print whether a change to a schema is patch, minor or major, and why"
    )
    command.add_argument("old", type=Path, metavar="OLD", help="schema document")
    command.add_argument("new", type=Path, metavar="NEW", help="schema document")

    command = add("check", lambda it: check(it.directory), "check a whole catalogue before it is published")
    command.add_argument("directory", type=Path, metavar="DIR", help="the folder with SPEC_INDEX.json")

    text = "count the stored records that a new catalogue would refuse"
    command = add("rehearse", lambda it: asyncio.run(rehearse(read_catalogue(it.specs_url), open_records)), text)
    command.add_argument("--specs-url", required=True, metavar="URL", help="the new catalogue: https:// or file://")


def _with_url(command: argparse.ArgumentParser) -> None:
    command.add_argument("--specs-url", metavar="URL", help="use the catalogue at this URL instead of CDV_SPECS_URL")


def _print_errors(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code; print the reasons if it failed."""
    try:
        return run(arguments)
    except CatalogueRefused as refused:
        reasons, code = list(map(str, refused.problems)), _FAILED
    except SchemaRefused as refused:
        reasons, code = list(refused.reasons), _FAILED
    except CannotStart as failed:
        reasons, code = [str(failed)], _FAILED
    except OSError as error:
        if error.filename is None:
            raise  # our own output cannot be written: cdv_http/cli.py handles that
        reasons, code = [f"{error.filename}: {error.strerror}"], _FAILED
    except (ValueError, InvalidField) as error:
        reasons, code = [str(error)], _USAGE_ERROR
    for reason in reasons:
        print(f"cdv: {reason}", file=sys.stderr)
    return code


def list_schemas(catalogue: Catalogue) -> int:
    """Print a line for each version; a star marks the default one."""
    for collection in catalogue:
        for schema in collection.versions.values():
            star = "*" if schema.version == collection.latest_stable else " "
            print(f"{collection.name} {schema.version}{star} {_state(collection, schema)}".rstrip())
    return 0


def _state(collection: Collection, schema: Schema) -> str:
    notes = [str(schema.status)]
    if schema.sunset is not None:
        notes.append(f"sunset {format_time(schema.sunset)}")
    if schema.replaced_by is not None:
        notes.append(f"replaced by {schema.replaced_by}")
    if collection.visibility == "owner":
        notes.append("readable by the owner only")
    return ", ".join(notes)


def show(catalogue: Catalogue, collection: str, version: str | None) -> int:
    """Print the schema document as it was published."""
    sys.stdout.buffer.write(_schema(catalogue, collection, version).document)
    sys.stdout.buffer.flush()
    return 0


def _schema(catalogue: Catalogue, collection: str, version: str | None) -> Schema:
    entry = catalogue.collection(Nsid.parse(collection, "collection"))
    chosen = version or entry.latest_stable
    if chosen is None or chosen not in entry.versions:
        raise SchemaVersionUnknown(collection, chosen)
    return entry.versions[chosen]


def _validate(arguments: argparse.Namespace, catalogue: Callable[[argparse.Namespace], Catalogue]) -> int:
    if arguments.collection is None:
        if arguments.schema_version is not None:
            raise ValueError("--schema-version: requires --collection")
        _read_schema(arguments.file)
        print(f"{arguments.file}: is a usable schema")
        return 0
    schema = _schema(catalogue(arguments), arguments.collection, arguments.schema_version)
    violations = schema.violations(_read_document(arguments.file))
    for violation in violations:
        print(f"{violation.pointer or '/'}: {violation.rule}: {violation.message}")
    if not violations:
        print(f"{arguments.file}: satisfies {schema.collection} {schema.version}")
    return _FAILED if violations else 0


def _read_document(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Raises: OSError, ValueError: the file is not valid JSON; the message has the path."""
    content = path.read_bytes()
    try:
        return parse_document(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_schema(path: Path) -> SchemaDocument:
    """Raises: OSError, ValueError: not JSON, SchemaRefused."""
    document = _read_document(path)
    if isinstance(document, dict) and is_lexicon(document):
        document = translate(document, Nsid.parse(str(document.get("id")), "id"), {})
    return compile_validator(document).document


def diff(old: Path, new: Path) -> int:
    """Print patch, minor or major, then a line for each reason."""
    difference = compare(_read_schema(old), _read_schema(new))
    print(difference.change)
    for reason in difference.reasons:
        print(f"  {reason}")
    return 0


def check(directory: Path) -> int:
    """Print each pair of versions whose numbers understate the change between them. Raises CatalogueRefused."""
    catalogue = read_catalogue(directory.resolve().as_uri())
    broken = list(broken_promises(catalogue))
    for promise in broken:
        print(promise)
    if not broken:
        versions = sum(len(it.versions) for it in catalogue)
        print(f"{directory}: {len(catalogue)} collections, {versions} versions, no problems found")
    return _FAILED if broken else 0


async def rehearse(catalogue: Catalogue, open_records: OpenRecords) -> int:
    """Validate every stored record against the latest stable schemas; print how many would be refused, and why."""
    rehearsal = Rehearsal(catalogue)
    async with open_records() as records:
        async for record in records:
            rehearsal.add(record.uri.collection, record.value_json)
            if rehearsal.records % _PROGRESS_RECORDS == 0:
                failing = rehearsal.failing.total()
                print(f"{rehearsal.records} records, {failing} would be refused", file=sys.stderr, flush=True)
    for collection, count in sorted(rehearsal.failing.items()):
        print(f"{collection}: {count} would be refused")
        for (name, rule), times in sorted(rehearsal.broken.items()):
            if name == collection:
                print(f"  {rule}: {times}")
    print(f"{rehearsal.records} records, {rehearsal.failing.total()} would be refused")
    return _FAILED if rehearsal.failing else 0
