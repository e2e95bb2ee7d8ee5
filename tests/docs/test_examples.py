"""Every shell and Python block of our pages runs as printed, page by page."""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks_of, needs_served_vault
from tests.docs.shell import Shell
from tests.servers import Bucket

LANGUAGES = {"sh", "python"}
# Info strings of blocks that are not run. Any other is a typo, and might be code that is never run.
SHOWN = {"text", "json", "js", "html", "ini", ""}
WALKTHROUGH = ["docs/quickstart.md", "docs/tutorial.md"]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_ELSEWHERE = [block for block in BLOCKS if block.run_by]


def is_run(block: Block) -> bool:
    return block.language in LANGUAGES and not block.run_by


pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages call curl")


def test_every_block_has_a_language_that_is_run_or_shown() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES | SHOWN


def test_no_block_passes_a_setting_of_the_vault_to_another_program() -> None:
    """Outside dev `CDV_DB_DSN` refers to a file or a Vault, which psql cannot resolve."""
    assert [f"{block.page}: {block.code}" for block in BLOCKS if '"$CDV_' in block.code] == []


@pytest.mark.parametrize("block", RUN_ELSEWHERE, ids=lambda block: f"{block.page}-{block.number}")
def test_a_block_that_is_run_elsewhere_is_run_there(block: Block) -> None:
    elsewhere = (ROOT / str(block.run_by)).read_text(encoding="utf-8").lower()
    program, *words = block.code.splitlines()[-1].split()
    command = [Path(program).name, *takewhile(lambda word: not word.startswith("-"), words)]
    assert [word for word in command if word.lower() not in elsewhere] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in WALKTHROUGH and any(map(is_run, blocks_of(page)))]
)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run_pages([page], tmp_path, request)


def test_quickstart_and_tutorial_run_in_an_empty_folder(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quickstart and then the tutorial in one folder, with all packages installed."""
    started = time.monotonic()
    run_pages(WALKTHROUGH, tmp_path, request)
    with capsys.disabled():
        print(f"\nquickstart and tutorial, as printed: {time.monotonic() - started:.1f} s")


def run_pages(pages: list[str], folder: Path, request: pytest.FixtureRequest) -> None:
    parts = [block for page in pages for block in blocks_of(page) if is_run(block)]
    addresses = production(request) if any(block.production for block in parts) else {}
    names: dict[str, Any] = {}
    with Shell(folder, addresses) as shell, inside(folder):
        if any(map(needs_served_vault, pages)):
            shell.serve()
        for block in parts:
            if block.language == "sh":
                shell.run(block.code)
            else:
                run_python(shell.local(block.code), names)
    if "page" in names:  # of the README, and of pages that print the same lines
        assert [str(record.uri) for record in names["page"].records] == [names["receipt"].uri]


def run_python(code: str, names: dict[str, Any]) -> None:
    """Run the block, or write it to the file that its first line names: `# name.py`."""
    first = code.partition("\n")[0]
    if first.startswith("# ") and first.endswith(".py"):
        Path(first.removeprefix("# ")).write_text(code, encoding="utf-8")
        return
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    coroutine = eval(compiled, names)
    if coroutine is not None:
        asyncio.run(coroutine)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def production(request: pytest.FixtureRequest) -> dict[str, str]:
    """Map the addresses and keys of production on the pages to those of the tests' servers."""
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return {
        "my-access-key": bucket.access_key,
        "my-secret-key": bucket.secret_key,
        "postgresql://cdv@127.0.0.1:5432/cdv": request.getfixturevalue("postgres_dsn"),
        "nats://127.0.0.1:4222": request.getfixturevalue("nats_url"),
        "http://127.0.0.1:9000": bucket.endpoint,
        "cdv-media": bucket.name,
    }
