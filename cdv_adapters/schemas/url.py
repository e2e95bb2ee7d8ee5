"""The catalogue from a URL: applied as a whole or not at all, cached on disk, refreshed in the background."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from types import CodeType
from typing import Final, Literal

import anyio
import anyio.to_thread
import msgspec
from loguru import logger

from cdv_adapters.data_dir import DataDir
from cdv_adapters.schemas.bundled import bundled_catalogue
from cdv_adapters.schemas.cache import CachedCatalogue, CatalogueCache
from cdv_adapters.schemas.compiler import CompilerFailed, NoProcess, compile_in_subprocess
from cdv_adapters.schemas.specs_url import FetchFailed, HttpValidators, SpecsUrl
from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused, Problem
from cdv_core.domain.catalogue_index import DocumentRef, Index, read_index
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue
from cdv_core.errors import CannotStart, Unavailable

REFRESH_MAX_SECONDS: Final = 420  # ours: more than the limits of fetching and compiling together

# Ours: what compiles faster than a process starts. While one large document is compiled here, nothing else runs.
_COMPILED_HERE_MAX_DOCUMENTS: Final = 20
_COMPILED_HERE_MAX_BYTES: Final = 32 * 1024
# The compiling thread sleeps between two documents, so that requests need not wait for the GIL.
_PAUSE_SECONDS: Final = 0.0005
_PROBLEMS_LOGGED: Final = 20

RefreshOutcome = Literal["never", "updated", "unchanged", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class CatalogueState:
    """For readiness, metrics and operators. `origin`: where the current catalogue came from.

    `outcome`: of the last refresh. `reason`: why it failed. `problems`: why the update was rejected.
    """

    origin: Literal["bundled", "cache", "source"]
    generated_at: datetime
    collections: int
    outcome: RefreshOutcome = "never"
    reason: str | None = None
    problems: tuple[Problem, ...] = ()
    refreshes: int = 0
    failures: int = 0
    refusals: int = 0


class UrlSchemas:
    """A SchemaSource that follows a catalogue at a URL.

    Until the first fetch succeeds, it uses the copy cached by an earlier run, otherwise the bundled catalogue.
    """

    def __init__(self, source: SpecsUrl, cache: CatalogueCache) -> None:
        self._source = source
        self._cache = cache
        # The current catalogue, with restrictions that this process has seen in earlier ones; the restrictions stored
        # in the database; and whether the last fetch has confirmed that this catalogue is the source's current one.
        self._published_catalogue = bundled_catalogue()
        self._restricted: frozenset[Nsid] = frozenset()
        self._is_confirmed = False
        self._catalogue = self._published_catalogue
        self._published: CachedCatalogue | None = None
        self._state = CatalogueState("bundled", self._catalogue.generated_at, len(self._catalogue))
        # A limiter of its own: the default threads are for requests.
        self._limiter = anyio.CapacityLimiter(1)
        # One refresh at a time, even if its caller timed out: an older catalogue must not replace a newer one.
        self._refreshing = Lock()
        self._apply_lock = Lock()  # held for a moment only, by the event loop too

    @classmethod
    def at(cls, url: str, data_dir: Path) -> UrlSchemas:
        """Return the source for `url`, with a cache in `data_dir`. Raises CannotStart: unsupported URL."""
        try:
            source = SpecsUrl(url)
        except ValueError as error:
            raise CannotStart(f"follow the catalogue at {url}", str(error), "correct CDV_SPECS_URL") from error
        return cls(source, CatalogueCache(DataDir(data_dir).catalogue_cache))

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        with self._apply_lock:
            self._restricted = collections
            self._apply_restrictions()

    @property
    def state(self) -> CatalogueState:
        return self._state

    @property
    def is_refreshing(self) -> bool:
        """Whether a refresh is in progress, perhaps one whose caller timed out."""
        return self._refreshing.locked()

    def readings(self) -> dict[str, float]:
        """Return whether the last refresh failed, and the total numbers of refreshes, failures and rejections."""
        return {
            "catalogue_failing": self._state.outcome in {"failed", "refused"},
            "catalogue_refreshes": self._state.refreshes,
            "catalogue_failures": self._state.failures,
            "catalogue_refusals": self._state.refusals,
        }

    async def open(self, wait_seconds: float = 30) -> None:
        """Apply the cached catalogue, if there is one, then refresh it; wait for that at most `wait_seconds`.

        A failing source raises no error.
        """
        await anyio.to_thread.run_sync(self._restore)
        await self.refresh(wait_seconds)

    def close(self) -> None:
        """Abort a fetch in progress."""
        self._source.close()

    async def refresh(self, wait_seconds: float = REFRESH_MAX_SECONDS) -> None:
        """Fetch the catalogue once, and apply it if it has changed and is valid as a whole.

        A failure or rejection is logged, counted and shown in `state`; the current catalogue stays in use. A refresh
        that takes longer than `wait_seconds` counts as failed, but continues and is applied if it succeeds later.
        """
        with anyio.move_on_after(wait_seconds) as timeout:
            await anyio.to_thread.run_sync(self._refresh_alone, limiter=self._limiter, abandon_on_cancel=True)
        if timeout.cancelled_caught:
            self._fail(f"no catalogue within {wait_seconds:.0f} s")

    async def check(self) -> None:
        """Raises Unavailable: the last refresh did not succeed; its cause says why."""
        if self._state.outcome in {"failed", "refused"}:
            raise Unavailable("schemas") from FetchFailed(self._state.reason)

    def _restore(self) -> None:
        kept = self._cache.read()
        if kept is None:
            return
        # First, and for whatever URL: even if the cached catalogue cannot be used, its restrictions must apply. The
        # earlier process may have stopped before it stored them in the database.
        with self._apply_lock:
            self._published_catalogue = self._published_catalogue.with_owner_only(_restrictions_of(kept))
            self._apply_restrictions()
        if kept.url != self._source.url:
            return
        try:
            self._apply(self._build(kept), kept, "cache")
        except (CatalogueRefused, CompilerFailed) as error:
            # It may be of an earlier release with other rules. The next refresh replaces it.
            logger.warning("the cached catalogue cannot be used: {}", error)

    def _refresh_alone(self) -> None:
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        self._state = replace(self._state, refreshes=self._state.refreshes + 1)
        try:
            published = self._fetch()
            catalogue = self._build(published) if published else None
        except (FetchFailed, CompilerFailed) as failed:
            self._fail(str(failed))
        except CatalogueRefused as refused:
            self._refuse(refused)
        except Exception as error:  # noqa: BLE001 - a bug that a document triggers must not stop the service
            logger.exception("the schema catalogue cannot be built")
            self._fail(f"internal error: {error!r}")
        else:
            if catalogue is None or published is None:
                self._mark_confirmed()
                self._state = replace(self._state, outcome="unchanged", reason=None, problems=())
                return
            self._apply(catalogue, published, "source")
            self._state = replace(self._state, outcome="updated")
            self._cache.write(published)
            logger.info("the schema catalogue of {} is in force", catalogue.generated_at)

    def _mark_confirmed(self) -> None:
        with self._apply_lock:
            if not self._is_confirmed:
                self._is_confirmed = True
                self._apply_restrictions()

    def _apply_restrictions(self) -> None:
        """Update the catalogue with its own and the stored restrictions. Must be called with the lock held."""
        opened = self._published_catalogue.public if self._is_confirmed else frozenset()
        # One assignment, so that a request sees either the old catalogue or the new one.
        self._catalogue = self._published_catalogue.with_owner_only(self._restricted - opened)

    def _fail(self, reason: str) -> None:
        self._is_confirmed = False
        logger.warning("the schema catalogue cannot be fetched, the last valid one stays in use: {}", reason)
        failures = self._state.failures + 1
        self._state = replace(self._state, outcome="failed", reason=reason, problems=(), failures=failures)

    def _refuse(self, refused: CatalogueRefused) -> None:
        self._is_confirmed = False
        reason = _summary(refused)
        logger.error("the new schema catalogue is rejected, the last valid one stays in use: {}", reason)
        refusals = self._state.refusals + 1
        self._state = replace(
            self._state, outcome="refused", reason=reason, problems=refused.problems, refusals=refusals
        )

    def _apply(self, catalogue: Catalogue, published: CachedCatalogue, origin: Literal["cache", "source"]) -> None:
        for version in _rewritten(self._published_catalogue, catalogue) if self._published else ():
            logger.warning("{} has changed under the same version number; a change needs a new version number", version)
        with self._apply_lock:
            self._published_catalogue, self._published, self._is_confirmed = catalogue, published, origin == "source"
            self._apply_restrictions()
        self._state = replace(
            self._state,
            origin=origin,
            generated_at=catalogue.generated_at,
            collections=len(catalogue),
            reason=None,
            problems=(),
        )

    def _fetch(self) -> CachedCatalogue | None:
        """Return the published catalogue, None if it has not changed. Raises: FetchFailed, CatalogueRefused."""
        published = self._published
        fetched = self._source.index(published.stamp if published else HttpValidators())
        if published and fetched.body in {None, published.index} and not self._source.is_file:
            self._published = msgspec.structs.replace(published, stamp=fetched.stamp)
            return None
        if fetched.body is None:
            raise FetchFailed("status 304, although the request was not conditional")
        known = published.documents if published else {}
        refs = list(read_index(fetched.body).documents())
        same = {ref.path: known[ref.path] for ref in refs if _is_unchanged(ref, known)}
        documents = same | self._source.documents(ref.path for ref in refs if ref.path not in same)
        if published and (fetched.body, documents) == (published.index, published.documents):
            return None
        return CachedCatalogue(self._source.url, fetched.stamp, fetched.body, documents)

    def _build(self, published: CachedCatalogue) -> Catalogue:
        """Return the compiled catalogue. Raises: CatalogueRefused, CompilerFailed."""
        index = read_index(published.index)
        codes: dict[str, CodeType] = {}
        changed = self._changed(index, published)
        if len(changed) > _COMPILED_HERE_MAX_DOCUMENTS or sum(changed) > _COMPILED_HERE_MAX_BYTES:
            try:
                codes = compile_in_subprocess(published.index, published.documents, lambda: self._source.closed)
            except NoProcess as failed:
                logger.warning("the schema catalogue is compiled in this process: {}", failed)
        return build_catalogue(
            index,
            published.documents,
            previous=self._published_catalogue,
            owner_only=self._published_catalogue.owner_only,
            codes=codes,
            pause=lambda: time.sleep(_PAUSE_SECONDS),
        )

    def _changed(self, index: Index, published: CachedCatalogue) -> list[int]:
        """Return the sizes in bytes of the published documents that are not part of the current catalogue."""
        current = {schema.document for entry in self._published_catalogue for schema in entry.versions.values()}
        documents = [published.documents[it.path] for it in index.documents()]
        return [len(document) for document in documents if document not in current]


def fetch_catalogue(url: str) -> Catalogue:
    """Fetch and compile the catalogue at `url`, without caching it. Blocks.

    Raises: ValueError: unsupported URL. FetchFailed. CatalogueRefused.
    """
    source = SpecsUrl(url)
    try:
        index = read_index(source.index(HttpValidators()).body or b"")
        return build_catalogue(index, source.documents(it.path for it in index.documents()))
    finally:
        source.close()


def _restrictions_of(cached: CachedCatalogue) -> frozenset[Nsid]:
    """Return the collections that the cached catalogue restricts to their owners."""
    try:
        index = read_index(cached.index)
    except CatalogueRefused:
        restricted = frozenset[Nsid]()  # invalid by this release's rules; `_restore` logs that
    else:
        restricted = frozenset(it.name for it in index.collections if it.visibility == "owner")
    return restricted.union(map(Nsid, cached.owner_only))


def _rewritten(old: Catalogue, new: Catalogue) -> Iterator[str]:
    """Yield the versions whose document has changed: stored records of that version were validated by another one."""
    kept = {(it.name, number): schema for it in old for number, schema in it.versions.items()}
    for collection in new:
        for number, schema in collection.versions.items():
            before = kept.get((collection.name, number))
            if before is not None and before.document != schema.document:
                yield f"{collection.name} {number}"


def _is_unchanged(ref: DocumentRef, known: Mapping[str, bytes]) -> bool:
    """Return whether the known document matches the index's digest."""
    return ref.path in known and ref.sha256 == hashlib.sha256(known[ref.path]).hexdigest()


def _summary(refused: CatalogueRefused) -> str:
    listed = "; ".join(map(str, refused.problems[:_PROBLEMS_LOGGED]))
    more = len(refused.problems) - _PROBLEMS_LOGGED
    return f"{listed}; and {more} more" if more > 0 else listed
