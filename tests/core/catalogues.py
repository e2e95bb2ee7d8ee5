"""Catalogues made for a test: an index and the documents that it lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdv_core.domain.catalogue_index import Index, read_index

GENERATED_AT = "2026-11-24T00:00:00Z"


def entry(
    name: str, versions: Sequence[str | Mapping[str, Any]], *, latest: str | None = "1.0.0", **more: Any
) -> dict[str, Any]:
    namespace, _, last = name.rpartition(".")
    return {"namespace": namespace, "name": last, "versions": list(versions), "latestStable": latest, **more}


def index_bytes(*entries: Mapping[str, Any], **more: Any) -> bytes:
    return json.dumps({"generatedAt": GENERATED_AT, "schemas": list(entries), **more}).encode()


def index_of(*entries: Mapping[str, Any], document: object = True, **more: Any) -> tuple[Index, dict[str, bytes]]:
    """Return the index of these entries, and for every document that it lists the same one."""
    index = read_index(index_bytes(*entries, **more))
    text = json.dumps({"type": "object"} if document is True else document).encode()
    return index, {document.path: text for document in index.documents()}


def publish(folder: Path, **visibility: str | None) -> str:
    """Write a catalogue of these collections, given by their last names, to `folder`; return its URL."""
    entries = []
    for name, declared in visibility.items():
        entries.append(entry(f"com.example.{name}", ["1.0.0"], **({"visibility": declared} if declared else {})))
        document = folder / f"com.example.{name}" / "1.0.0.json"
        document.parent.mkdir(parents=True, exist_ok=True)
        document.write_text("{}")
    (folder / "SPEC_INDEX.json").write_bytes(index_bytes(*entries))
    return folder.as_uri()
