"""Defects, and how they are planted in our service: the source of a module is edited while Python imports it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Edit:
    """Replaces `old`, which occurs exactly once in the file, by `new`. `file`: path from the root of the repository."""

    file: str
    old: str
    new: str

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    @property
    def found(self) -> int:
        """How often `old` occurs in the file: if not once, the defect is out of date."""
        return (ROOT / self.file).read_text(encoding="utf-8").count(self.old)


@dataclass(frozen=True)
class Defect:
    """`breaks`: what our service then does wrong. `caught_by`: the requirements that must be reported as failed.

    `trap`: the trap that it demonstrates, if any. `only`: the requirements that the suite tests, if not those of
    `caught_by`; a law needs some, since it has no test that sends requests. `settings`: of the service. `waits`: the
    suite waits long for something that never arrives.
    """

    name: str
    breaks: str
    caught_by: tuple[str, ...]
    edits: tuple[Edit, ...]
    trap: str = ""
    only: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    waits: bool = False

    @property
    def judged(self) -> tuple[str, ...]:
        return self.only or self.caught_by

    def needs(self, prefix: str) -> bool:
        return any(requirement.startswith(prefix) for requirement in self.judged)


def defect(name: str, breaks: str, caught_by: str, *edits: tuple[str, str, str], **more: Any) -> Defect:
    """Return the defect. `caught_by` and `only`: ids separated by spaces. `edits`: (file, old, new)."""
    only = tuple(more.pop("only", "").split())
    return Defect(name, breaks, tuple(caught_by.split()), tuple(Edit(*edit) for edit in edits), only=only, **more)


def plant(edits: Sequence[Edit]) -> None:
    """Make this process and its forks import the edited modules. Must be called before any of them is imported."""
    for edit in edits:
        assert edit.module not in sys.modules, f"{edit.module} is imported already"
        assert edit.found == 1, f"{edit.file} contains {edit.found} times: {edit.old}"
    sys.meta_path.insert(0, _Finder(edited_sources(edits)))


def edited_sources(edits: Sequence[Edit]) -> dict[str, str]:
    """Return the edited source of each module, by its name."""
    sources: dict[str, str] = {}
    for edit in edits:
        source = sources.get(edit.module) or (ROOT / edit.file).read_text(encoding="utf-8")
        sources[edit.module] = source.replace(edit.old, edit.new)
    return sources


class _Finder(MetaPathFinder):
    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname not in self._sources:
            return None
        found = PathFinder.find_spec(fullname, path)
        assert found is not None
        assert found.origin is not None
        loader = _Loader(fullname, found.origin, self._sources[fullname])
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._source, self.path, "exec", dont_inherit=True)
        return code
