"""All defects that the suite must report, and the traps that they demonstrate. Generates docs/defects.md."""

from __future__ import annotations

from collections.abc import Iterable

from conformance.http.requirements import GROUPS
from tests.conformance.defects_auth import AUTH
from tests.conformance.defects_cids import CONTENT_IDS
from tests.conformance.defects_edge import CORS, LIMITS, OPERATIONS
from tests.conformance.defects_errors import ERRORS
from tests.conformance.defects_events import EVENTS
from tests.conformance.defects_idempotency import IDEMPOTENCY
from tests.conformance.defects_listing import LISTING
from tests.conformance.defects_media import MEDIA
from tests.conformance.defects_model import Defect, plant
from tests.conformance.defects_records import RECORDS
from tests.conformance.defects_schemas import SCHEMAS

OF_GROUP: dict[str, list[Defect]] = {
    "REC": RECORDS,
    "CID": CONTENT_IDS,
    "IDEM": IDEMPOTENCY,
    "LIST": LISTING,
    "AUTH": AUTH,
    "MEDIA": MEDIA,
    "ERR": ERRORS,
    "OPS": OPERATIONS,
    "CORS": CORS,
    "LIMIT": LIMITS,
    "SCHEMA": SCHEMAS,
    "EVENT": EVENTS,
}
DEFECTS: list[Defect] = [each for group in OF_GROUP.values() for each in group]

# Mistakes made by systems of this kind that were called ready. Value: empty if a defect demonstrates the trap, else why
# none can.
TRAPS: dict[str, str] = {
    "A stream subject cdv.records.* matches one token": "",
    "Publishing after commit with only a warning on failure loses events": "",
    "A broker that is down at start leaves a no-op publisher": "",
    "Deduplicating on a client-supplied correlation id": "",
    "A relay that remembers what it published up to loses what commits later": "",
    "The broker forgets what it acknowledged": "a run harms nothing, so it takes nothing out of a stream",
    "A key not scoped by DID": "",
    "Look-up and store in two steps": "",
    "A conflict found after the insert answers 409 with the record stored": "",
    "Expired rows that are never removed conflict for ever": "a day would have to pass",
    "A random id called a CID": "",
    "indexedAt taken from the client": "",
    "Two first writes of one DID race on the account row": "",
    "An empty page as null": "",
    "A bad limit silently ignored": "",
    "A bad since silently ignored": "",
    "A bad cursor restarting at page one": "",
    "Off by one at a page boundary": "",
    "The key that was signed differs from the key that is verified": "",
    "Without a store, any checksum is accepted": "",
    "The declared checksum is never compared": "",
    "The declared size is never compared": "",
    "The upload URL still works after finalize": "",
    "The whole object read into memory": "what a server holds in memory is its own affair",
    "Versions hardcoded while the setting for their source does nothing": "",
    "Formats the validator does not know pass everything": "",
    "authorDid never compared with the subject": "",
    "The deprecation setting stored and never read": "",
    "An unknown kid does not refetch": "",
    "An unknown kid refetches every time": "",
    "An issuer outage answered as 401": "",
    "CORS settings read but never passed on": "",
    "Preflight refused before CORS runs": "",
    "Metrics declared, never recorded": "",
    "An op-log table nobody writes": "",
    "Ready although the broker is gone": "a run harms nothing, so it stops no broker",
    "No DSN silently means memory, in production too": "it shows at the start, before anything answers",
    "An unparsable limit becomes 0": "",
    "A conformance suite that cannot fail": "the defects on this page show that this one can",
    "A test that accepts 401 for a valid token": "",
}


def serve_with(name: str) -> None:
    """Run the `cdv` command with the defect of that name planted; without a defect if the name is empty."""
    plant([edit for each in DEFECTS if each.name == name for edit in each.edits])
    from cdv_http.cli import main

    main()


def as_markdown() -> str:
    """Return docs/defects.md."""
    lines = [
        "# Defects",
        "",
        "What `cdv-conformance` is held to: each of these defects is planted in our own service, and the suite must",
        "report the [requirement](requirements.md) beside it as failed. `make defects` plants them all, `make test` a",
        "sample. This page is made by `python -m tests.conformance.defects`; a test compares them.",
    ]
    for prefix, defects in OF_GROUP.items():
        group = GROUPS[prefix]
        lines += ["", f"## {group[0].upper()}{group[1:]}", ""]
        rows = [(f"`{defect.name}`", defect.breaks, ", ".join(defect.caught_by)) for defect in defects]
        lines += _table(("defect", "what is wrong", "reported"), rows)
    lines += ["", "## Traps", "", "What systems of this kind did wrong that called themselves ready.", ""]
    lines += _table(("trap", "shown by"), [(trap, _shown_by(trap)) for trap in TRAPS])
    return "\n".join(lines) + "\n"


def _shown_by(trap: str) -> str:
    shown = ", ".join(f"`{defect.name}`" for defect in DEFECTS if defect.trap == trap)
    return shown or f"none: {TRAPS[trap]}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    print(as_markdown(), end="")
