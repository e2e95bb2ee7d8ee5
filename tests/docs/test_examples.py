"""Every shell and Python block of our pages runs as printed, page by page, as somebody would paste it."""

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
# Info strings of blocks that are for reading. Anything else is a slip of the pen, and might be code that nobody runs.
SHOWN = {"text", "json", "js", "html", "ini", ""}
WALK = ["docs/quickstart.md", "docs/tutorial.md"]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_ELSEWHERE = [block for block in BLOCKS if block.run_by]


def is_run(block: Block) -> bool:
    return block.language in LANGUAGES and not block.run_by


pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages call curl")


def test_every_block_is_of_a_kind_that_is_run_or_shown() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES | SHOWN


def test_no_other_program_is_given_a_setting_that_may_hold_a_reference() -> None:
    """Outside dev `CDV_DB_DSN` names a file or a Vault, of which psql knows nothing."""
    assert [f"{block.page}: {block.code}" for block in BLOCKS if '"$CDV_' in block.code] == []


@pytest.mark.parametrize("block", RUN_ELSEWHERE, ids=lambda block: f"{block.page}-{block.number}")
def test_a_block_that_is_run_elsewhere_is_run_there(block: Block) -> None:
    elsewhere = (ROOT / str(block.run_by)).read_text(encoding="utf-8").lower()
    program, *words = block.code.splitlines()[-1].split()
    command = [Path(program).name, *takewhile(lambda word: not word.startswith("-"), words)]
    assert [word for word in command if word not in elsewhere] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WALK and any(map(is_run, blocks_of(page)))])
def test_a_page_does_what_it_says(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run_pages([page], tmp_path, request)


def test_a_stranger_walks_from_an_empty_folder_to_production(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quickstart and then the tutorial in one folder, all packages installed before."""
    started = time.monotonic()
    run_pages(WALK, tmp_path, request)
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
    """Return what the pages call production's servers and keys, and what they are here."""
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return {
        "my-access-key": bucket.access_key,
        "my-secret-key": bucket.secret_key,
        "postgresql://cdv@127.0.0.1:5432/cdv": request.getfixturevalue("postgres_dsn"),
        "nats://127.0.0.1:4222": request.getfixturevalue("nats_url"),
        "http://127.0.0.1:9000": bucket.endpoint,
        "cdv-media": bucket.name,
    }
