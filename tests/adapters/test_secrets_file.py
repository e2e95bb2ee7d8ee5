"""Secrets in files as orchestrators mount and rotate them."""

from pathlib import Path

import pytest

from cdv_adapters.secrets.env import PlainSecrets
from cdv_adapters.secrets.file import FileSecrets
from cdv_core.errors import Unavailable
from cdv_core.ports.secrets import UnusableSecret
from conformance.ports.secrets import loggable_text


async def test_a_plain_value_is_returned_as_the_secret():
    assert await PlainSecrets().get("hunter2") == "hunter2"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2"),
        (b"two\nlines\n", "two\nlines"),
        (b" spaces \n", " spaces "),
        ("\N{SNOWMAN}".encode(), "\N{SNOWMAN}"),
        (b"x" * 65536, "x" * 65536),
    ],
)
async def test_trailing_line_breaks_are_stripped(tmp_path: Path, content: bytes, secret: str):
    (tmp_path / "secret").write_bytes(content)

    assert await FileSecrets().get(f"file:{tmp_path}/secret") == secret


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2\xff", b"hunter2".ljust(65537, b"x")])
async def test_an_unusable_file_is_reported_without_showing_its_content(tmp_path: Path, content: bytes):
    (tmp_path / "secret").write_bytes(content)

    with pytest.raises(Unavailable) as caught:
        await FileSecrets().get(f"file:{tmp_path}/secret")

    assert isinstance(caught.value.__cause__, UnusableSecret)
    assert str(tmp_path / "secret") in str(caught.value.__cause__)
    assert "hunter2" not in loggable_text(caught.value)
    assert caught.value.__cause__.__context__ is None


async def test_a_directory_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable) as caught:
        await FileSecrets().get(f"file:{tmp_path}")

    assert isinstance(caught.value.__cause__, IsADirectoryError)


async def test_a_kubernetes_symlink_rotation_is_read(tmp_path: Path):
    """Kubernetes keeps each version in a directory and swaps one symbolic link."""
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "password").write_text(version)
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "password").symlink_to("data/password")
    source, reference = FileSecrets(), f"file:{tmp_path}/password"
    assert await source.get(reference) == "old"

    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(tmp_path / "data")

    assert await source.get(reference) == "new"
