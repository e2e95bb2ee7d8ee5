"""A schema catalogue that a run serves: the bundled collections, and a collection for each state of a version."""

from __future__ import annotations

import time
from typing import Any

from conformance.http.servers import Documents

NAMESPACE = "org.conformance.test"
DEPRECATED, SUNSET, RETIRED, LATEST, LEXICON, PRIVATE = (
    f"{NAMESPACE}.{name}" for name in ("deprecated", "sunset", "retired", "latest", "lexicon", "private")
)
INDEX = "/SPEC_INDEX.json"  # domain, schema catalogue
DAY_SECONDS = 86400
LEXICON_BYTES_MAX, LEXICON_GRAPHEMES_MAX = 40, 5

_TEXT, _DID = {"type": "string"}, {"type": "string", "format": "did"}
_URI = {"type": "string", "anyOf": [{"format": "at-uri"}, {"format": "uri"}]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    draft = "http://json-schema.org/draft-07/schema#"
    return {"$schema": draft, "type": "object", "required": required, "properties": properties}


def _limited(characters: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": characters}


_SHA256 = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
BUNDLED: dict[str, dict[str, Any]] = {  # domain, schema catalogue
    "com.registryaccord.profile": _object(["displayName"], displayName=_limited(64), bio=_limited(256)),
    "com.registryaccord.feed.post": _object(
        ["text", "createdAt", "authorDid"],
        text=_limited(2048),
        createdAt={"type": "string", "format": "date-time"},
        authorDid=_DID,
    ),
    "com.registryaccord.graph.follow": _object(["subject"], subject=_DID),
    "com.registryaccord.feed.like": _object(["subject"], subject=_URI),
    "com.registryaccord.feed.comment": _object(["text", "subject"], text=_limited(2048), subject=_TEXT),
    "com.registryaccord.feed.repost": _object(["subject"], subject=_TEXT),
    "com.registryaccord.moderation.flag": _object(["subject", "reason"], subject=_TEXT, reason=_limited(256)),
    "com.registryaccord.media.asset": _object(
        ["mimeType", "size", "checksum"], mimeType=_TEXT, size={"type": "integer", "minimum": 0}, checksum=_SHA256
    ),
}
OWNERS_ONLY = {"com.registryaccord.moderation.flag"}


class Catalogue(Documents):
    """SPEC_INDEX.json and its documents. `deprecated_at`, `sunset_at`: of DEPRECATED 1.0.0, in Unix seconds."""

    def __init__(self) -> None:
        super().__init__()
        now = int(time.time())
        self.deprecated_at, self.sunset_at = now - DAY_SECONDS, now + DAY_SECONDS
        text = _object(["text"], text=_TEXT)
        for collection, schema in BUNDLED.items():
            self._add(collection, {"1.0.0": schema}, visibility="owner" if collection in OWNERS_ONLY else "public")
        times = {"deprecatedAt": _time(self.deprecated_at), "sunset": _time(self.sunset_at)}
        past = {"deprecatedAt": _time(now - 2 * DAY_SECONDS), "sunset": _time(now - DAY_SECONDS)}
        self._add(DEPRECATED, {"1.0.0": text, "1.1.0": text}, {"1.0.0": {"status": "deprecated", **times}})
        self._add(SUNSET, {"1.0.0": text, "1.1.0": text}, {"1.0.0": {"status": "deprecated", **past}})
        self._add(RETIRED, {"1.0.0": text, "1.1.0": text}, {"1.0.0": {"status": "retired"}})
        # 1.10.0 is newer than 1.9.0, although it sorts before it as a string; only its schema limits the length.
        self._add(LATEST, {"1.9.0": text, "1.10.0": _object(["text"], text=_limited(3))})
        self._add(PRIVATE, {"1.0.0": text}, visibility="owner")
        limits = {"maxLength": LEXICON_BYTES_MAX, "maxGraphemes": LEXICON_GRAPHEMES_MAX}
        record = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", **limits}}}
        main = {"type": "record", "key": "tid", "record": record}
        self._add(LEXICON, {"1.0.0": {"lexicon": 1, "id": LEXICON, "defs": {"main": main}}})

    def not_used_reason(self) -> str:
        """Return why the target could not use the catalogue, which the contract allows; empty if it fetched it.

        The contract names SPEC_INDEX.json, but not the paths of the documents, nor that http:// must be accepted.
        """
        with self.lock:
            requested = {*self.request_counts}
        unknown = sorted(requested - {*self.documents})
        if unknown:
            return f"the target requested {', '.join(unknown[:5])}, where this catalogue has no documents"
        if not requested - {INDEX}:
            return f"the target requested only {', '.join(sorted(requested)) or 'nothing'} of the catalogue"
        return ""

    def _add(
        self,
        collection: str,
        documents: dict[str, Any],
        states: dict[str, dict[str, str]] | None = None,
        visibility: str = "public",
    ) -> None:
        """Add a collection, whose last document is its latest stable version."""
        namespace, _, name = collection.rpartition(".")
        versions = [{"version": version, **(states or {}).get(version, {})} for version in documents]
        entry = {"namespace": namespace, "name": name, "versions": versions, "latestStable": [*documents][-1]}
        index = self.documents.setdefault(INDEX, {"generatedAt": _time(int(time.time())), "schemas": []})
        index["schemas"].append({**entry, "status": "stable", "visibility": visibility})
        for version, document in documents.items():
            self.documents[f"/{collection}/{version}.json"] = document


def _time(unix_seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_seconds))
