"""A database of an older version is migrated by `cdv migrate` and the service, never by read-only commands."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import cdv_core.catalogue
from tests.command_line import Cli

CATALOGUE = Path(cdv_core.catalogue.__path__[0])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(monkeypatch, capfd, tmp_path)


@pytest.mark.parametrize(
    "command",
    [("check",), ("doctor",), ("events",), ("schemas", "rehearse", "--specs-url", CATALOGUE.as_uri())],
    ids=["check", "doctor", "events", "rehearse"],
)
def test_read_only_commands_refuse_an_older_database(
    command: tuple[str, ...], cli: Cli, postgres_dsn: str, tmp_path: Path
) -> None:
    assert cli("migrate", data_dir=tmp_path, CDV_DB_DSN=postgres_dsn)[0] == 0
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
        before = connection.execute("SELECT max(version) FROM schema_migrations").fetchone()
    code, out, err = cli(*command, data_dir=tmp_path, CDV_DB_DSN=postgres_dsn)
    assert code == 1
    assert "older code has migrated it" in out + err
    assert "`cdv migrate`" in out + err
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT max(version) FROM schema_migrations").fetchone() == before
