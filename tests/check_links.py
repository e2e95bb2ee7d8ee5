"""Dead relative links and anchors in our Markdown files; `make check` runs this, without the network."""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt("commonmark").enable("table")


def tokens(page: Path) -> Iterator[Token]:
    for token in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


@cache
def anchors(page: Path) -> frozenset[str]:
    """The fragments a link may name: headings as GitHub slugs them, repeats numbered, and ids given in HTML."""
    found: set[str] = set()
    inside_heading = False
    for token in tokens(page):
        if token.type == "inline" and inside_heading:
            words = "".join(child.content for child in token.children or () if child.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            repeat = 0
            while (candidate := f"{slug}-{repeat}" if repeat else slug) in found:
                repeat += 1
            found.add(candidate)
        elif token.type in {"html_block", "html_inline"}:
            found.update(re.findall(r"""\b(?:id|name)=["']([^"']+)["']""", token.content))
        inside_heading = token.type == "heading_open"
    return frozenset(found)


def links(page: Path) -> Iterator[str]:
    """Every link and image target of the page, in order; code spans and fences hold none."""
    for token in tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            yield str(target)
        elif token.type in {"html_block", "html_inline"}:
            yield from re.findall(r"""\b(?:href|src)=["']([^"']+)["']""", token.content)


def dead_links(pages: list[Path]) -> Iterator[str]:
    """Yield a line for each dead link; links to other hosts are not checked."""
    for page in pages:
        for link in links(page):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = page.parent / unquote(parts.path) if parts.path else page
            if not target.exists():
                yield f"{page}: {link}: no such file"
            elif parts.fragment and target.suffix == ".md" and unquote(parts.fragment) not in anchors(target):
                yield f"{page}: {link}: no such heading"


def markdown_files() -> list[Path]:
    """Our own pages, without hidden folders (such as .venv) and those that tools generate."""
    made_by_tools = {"build", "dist", "mutants", "node_modules", "reports"}
    return sorted(
        page
        for page in Path().rglob("*.md")
        if not any(part.startswith(".") or part in made_by_tools for part in page.parts)
    )


if __name__ == "__main__":
    dead = list(dead_links(markdown_files()))
    print(*dead, sep="\n", end="\n" if dead else "")
    sys.exit(bool(dead))
