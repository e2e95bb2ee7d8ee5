"""Starts that are refused: one clear line, and no file is changed (spec: configuration)."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest

from tests.command_line import DID, Cdv, cdv, one_line, port

__all__ = ["cdv", "port"]  # the fixtures


def test_a_port_in_use_is_reported_in_one_line(cdv: Cdv) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = str(occupied.getsockname()[1])
        one_line(cdv("serve", "--port", port), 1, f"127.0.0.1:{port}", "in use", "--port")


def test_a_host_that_cannot_be_bound_is_reported_in_one_line(cdv: Cdv, port: str) -> None:
    one_line(cdv("serve", "--port", port, "--host", "192.0.2.1"), 1, "192.0.2.1", "CDV_HOST")
    one_line(cdv("serve", "--port", port, "--host", "no host"), 1, "no host", "CDV_HOST")


def test_a_missing_secret_is_reported_with_its_setting(cdv: Cdv, port: str) -> None:
    one_line(cdv("serve", CDV_PORT=port, CDV_RATE_LIMIT_STORAGE="file:/nope"), 1, "CDV_RATE_LIMIT_STORAGE", "/nope")
    one_line(cdv("serve", CDV_PORT=port, CDV_DB_DSN="file:/nope"), 1, "CDV_DB_DSN", "/nope")
    one_line(cdv("serve", CDV_PORT=port, CDV_DB_DSN="host=h password=file:nope"), 1, "CDV_DB_DSN")


@pytest.mark.parametrize("command", [("serve",), ("check",), ("migrate",), ("token", "--did", DID)])
@pytest.mark.parametrize("where", ["file", "file/below", "/proc/cdv", "/dev/null"])
def test_an_unusable_data_directory_is_reported_in_one_line(
    cdv: Cdv, command: tuple[str, ...], where: str, tmp_path: Path, port: str
) -> None:
    (tmp_path / "file").write_text("kept")
    result = cdv(*command, CDV_DATA_DIR=where, CDV_PORT=port)
    result.out = result.out.removeprefix("ok   settings\n")
    one_line(result, 1, where, "CDV_DATA_DIR")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture
def database(cdv: Cdv, tmp_path: Path) -> Path:
    """An intact database, closed."""
    assert cdv("migrate").code == 0
    return tmp_path / ".cdv" / "vault.sqlite3"


@pytest.mark.parametrize("damage", ["noise", "text", "first page", "middle", "cut off"])
def test_a_damaged_database_is_reported_in_one_line_and_left_unchanged(
    cdv: Cdv, database: Path, damage: str, port: str
) -> None:
    content = bytearray(database.read_bytes())
    if damage == "noise":
        content = bytearray(b"\x5a" * len(content))
    elif damage == "text":
        content = bytearray(b"this was a database once\n" * 400)
    elif damage == "first page":
        content[100:4096] = b"\xff" * 3996
    elif damage == "middle":
        content[8192 : 8192 + 4096] = b"\xff" * 4096
    else:
        content = content[: len(content) // 2]
    database.write_bytes(content)
    one_line(cdv("serve", "--port", port), 1, str(database.relative_to(database.parents[1])), "backup")
    assert database.read_bytes() == content


def test_a_newer_database_is_reported_in_one_line_and_left_unchanged(cdv: Cdv, database: Path, port: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    content = database.read_bytes()
    for command in (("serve", "--port", port), ("migrate",)):
        one_line(cdv(*command), 1, "999", "newer")
    checked = cdv("check")
    assert (checked.code, checked.err) == (1, "")
    (line,) = [line for line in checked.out.splitlines() if not line.startswith("ok ")]
    assert line.startswith("FAIL database (critical): ")
    assert "newer" in line
    assert "999" in line
    assert database.read_bytes() == content


def test_a_damaged_issuer_key_is_reported_in_one_line(cdv: Cdv, tmp_path: Path, port: str) -> None:
    cdv("token", "--did", DID)
    key = tmp_path / ".cdv" / "issuer-key.json"
    key.write_text("{}")
    one_line(cdv("serve", "--port", port), 1, "issuer-key.json")
    one_line(cdv("token", "--did", DID), 1, "issuer-key.json")
    assert key.read_text() == "{}"


def test_a_damaged_signing_key_is_reported_in_one_line(cdv: Cdv, tmp_path: Path, port: str) -> None:
    assert cdv("check").code == 0
    key = tmp_path / ".cdv" / "media" / "url-signing.key"
    assert key.exists()
    key.write_bytes(b"short")
    one_line(cdv("serve", "--port", port), 1, "url-signing.key")
    assert key.read_bytes() == b"short"


def test_an_unreachable_database_of_a_migration_is_reported_in_one_line(cdv: Cdv, port: str) -> None:
    result = cdv("migrate", CDV_DB_DSN=f"postgresql://cdv@127.0.0.1:{port}/cdv?connect_timeout=1")
    one_line(result, 1, "database")
