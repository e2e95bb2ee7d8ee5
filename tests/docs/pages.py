"""Our pages and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(
        str(page.relative_to(ROOT))
        for folder in ("docs", "docs/guides")
        for page in sorted((ROOT / folder).glob("*.md"))
    ),
]
_RUN_BY = re.compile(r"<!-- run by: (.+?) -->")
_SERVED = "<!-- on: a served vault -->"
_PRODUCTION = "<!-- on: production -->"


@dataclass(frozen=True)
class Block:
    """A fenced block. `production`: it needs the servers of production.

    `run_by`: the file that runs it, according to the comment before it; None if test_examples.py runs it.
    """

    page: str
    number: int
    language: str
    code: str
    run_by: str | None
    production: bool


def blocks_of(page: str) -> list[Block]:
    """Return the page's blocks in order. `<!-- on: production -->` counts from there to the page's end."""
    found: list[Block] = []
    run_by, production = None, False
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "html_block":
            comment = _RUN_BY.search(token.content)
            run_by = comment[1] if comment else None
            production = production or _PRODUCTION in token.content
        elif token.type == "fence":
            found.append(Block(page, len(found) + 1, token.info.strip(), token.content, run_by, production))
            run_by = None
    return found


def blocks(page: str, language: str) -> list[str]:
    """Return the code of the page's blocks in that language."""
    return [block.code for block in blocks_of(page) if block.language == language]


def needs_served_vault(page: str) -> bool:
    """Return whether the page expects a vault that is being served (`<!-- on: a served vault -->`)."""
    return _SERVED in (ROOT / page).read_text(encoding="utf-8")
