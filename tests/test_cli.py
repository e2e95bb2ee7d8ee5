"""The `cdv` command: what it prints, where, and what it exits with (spec: configuration)."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

import cdv_core.catalogue
from cdv_core.domain.tokens import read_token
from cdv_http.openapi import openapi_document
from tests.command_line import DID, Cdv, cdv, one_line, port
from tests.http.running import CDV, environment
from tests.leaks import printed

__all__ = ["cdv", "port"]  # the fixtures
CATALOGUE = Path(cdv_core.catalogue.__path__[0])


def test_token_prints_nothing_but_a_token_for_the_did(cdv: Cdv, tmp_path: Path) -> None:
    result = cdv("token", "--did", DID)
    assert (result.code, result.err) == (0, "")
    claims = read_token(result.out.strip()).claims
    assert claims["sub"] == DID
    assert claims["exp"] - claims["iat"] == 3600
    assert (tmp_path / ".cdv").is_dir()


def test_tokens_are_signed_by_one_key_and_have_the_requested_ttl(cdv: Cdv) -> None:
    one, two = (read_token(cdv("token", "--did", DID, "--ttl", "60").out.strip()) for _ in range(2))
    assert one.kid == two.kid
    assert one.claims["exp"] - one.claims["iat"] == 60


def test_a_token_can_be_signed_by_another_issuer_key(cdv: Cdv, tmp_path: Path) -> None:
    cdv("token", "--did", DID, CDV_DATA_DIR=str(tmp_path / "other"))
    key = tmp_path / "other" / "issuer-key.json"
    signed = cdv("token", "--did", DID, "--issuer-key", str(key))
    theirs = cdv("token", "--did", DID, CDV_DATA_DIR=str(tmp_path / "other"))
    assert read_token(signed.out.strip()).kid == read_token(theirs.out.strip()).kid
    key.write_text("not a key")
    one_line(cdv("token", "--did", DID, "--issuer-key", str(key)), 1, str(key))
    one_line(cdv("token", "--did", DID, "--issuer-key", str(tmp_path / "none")), 1, "none")


def test_a_token_for_an_external_issuer_warns_that_its_key_is_needed(cdv: Cdv, tmp_path: Path) -> None:
    foreign = {"CDV_JWT_ISSUER": "https://id.example.com", "CDV_JWT_AUDIENCE": "cdv"}
    result = cdv("token", "--did", DID, **foreign)
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert "--issuer-key" in result.err
    assert read_token(result.out.strip()).claims["iss"] == "https://id.example.com"
    key = tmp_path / ".cdv" / "issuer-key.json"
    assert cdv("token", "--did", DID, "--issuer-key", str(key), **foreign).err == ""


PRODUCTION = {
    "CDV_ENV": "prod",
    "CDV_DB_DSN": "postgresql://db/cdv",
    "CDV_S3_ENDPOINT": "https://s3.example.com",
    "CDV_S3_BUCKET": "media",
    "CDV_JWT_ISSUER": "https://id.example.com",
    "CDV_JWT_AUDIENCE": "cdv",
}


def test_a_token_is_refused_in_production(cdv: Cdv, tmp_path: Path) -> None:
    one_line(cdv("token", "--did", DID, **PRODUCTION), 2, "prod")
    assert not (tmp_path / ".cdv").exists()


@pytest.mark.parametrize("did", ["ada", "", "did:example:", "did:example:a b"])
def test_a_token_for_an_invalid_did_is_refused(cdv: Cdv, did: str) -> None:
    one_line(cdv("token", "--did", did), 2, "--did")


@pytest.mark.parametrize("ttl", ["0", "-1", "3153600001", "9" * 40])
def test_a_ttl_outside_one_second_to_a_century_is_refused(cdv: Cdv, ttl: str) -> None:
    one_line(cdv("token", "--did", DID, "--ttl", ttl), 2, "--ttl")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nope",),
        ("token",),
        ("serve", "--port", "x"),
        ("token", "--did", DID, "--ttl", "1h"),
        ("doctor", "--url", "junk"),
        ("doctor", "--url", "http://[::1"),
        ("doctor", "--url", "http://u:p@h"),
        ("events", "--from", "99999999999999999999"),
        ("events", "--from", "x"),
        ("events", "--follow", "reconcile"),
        ("events", "--from", "1", "reconcile"),
    ],
)
def test_an_invalid_command_prints_the_usage(cdv: Cdv, arguments: tuple[str, ...]) -> None:
    result = cdv(*arguments)
    assert result.code == 2
    assert "usage: cdv" in result.err


def test_a_misspelt_setting_in_the_env_file_is_reported_too(cdv: Cdv, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CDV_PROT=1\nCDV_LOG_LEVEL=info\nOTHER=2\n")
    assert cdv("config").err == "cdv: warning: CDV_PROT is not a setting and is ignored\n"


def test_a_misspelt_setting_is_reported_as_text_in_dev_and_as_json_elsewhere(cdv: Cdv) -> None:
    assert cdv("config", CDV_MISSPELT="1").err == "cdv: warning: CDV_MISSPELT is not a setting and is ignored\n"
    line = json.loads(cdv("config", **PRODUCTION, CDV_MISSPELT="1").err)
    assert (line["level"], line["message"]) == ("warning", "CDV_MISSPELT is not a setting and is ignored")


def test_help_lists_every_command(cdv: Cdv) -> None:
    result = cdv("--help")
    assert result.code == 0
    for command in ("serve", "token", "migrate", "check", "doctor", "backup", "restore", "config", "openapi", "events"):
        assert f"  {command} " in result.out


def test_the_openapi_document_is_printed(cdv: Cdv) -> None:
    result = cdv("openapi")
    assert json.loads(result.out) == openapi_document()
    assert result.err == ""


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path: Path) -> None:
    command = f"'{CDV}' openapi | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("{\n", "", 0)


def test_the_effective_settings_are_printed_with_secrets_masked(cdv: Cdv) -> None:
    result = cdv(
        "config",
        CDV_PORT="9999",
        CDV_DB_DSN="postgresql://cdv:hunter2@db/cdv",
        CDV_S3_ENDPOINT="http://s3",
        CDV_S3_BUCKET="media",
        CDV_S3_ACCESS_KEY="hunter3",
        CDV_S3_SECRET_KEY="hunter4",
        CDV_NATS_URL="nats://cdv:hunter5@nats",
        CDV_NATS_CREDS="hunter6",
    )
    assert result.code == 0
    assert "hunter" not in result.out + result.err
    lines = dict(line.split("=", 1) for line in result.out.splitlines())
    assert lines["CDV_PORT"] == "9999"
    assert lines["CDV_ENV"] == "dev"
    assert lines["CDV_MAX_BODY_BYTES"] == str(1024**2)
    assert lines["CDV_MAX_MEDIA_SIZE"] == str(10 * 1024**2)
    assert lines["CDV_ALLOWED_MIME_TYPES"] == "image/jpeg,image/png,image/gif,video/mp4"
    assert lines["CDV_S3_SECRET_KEY"]


def test_a_start_reports_every_invalid_setting_at_once(cdv: Cdv) -> None:
    result = cdv(
        "serve",
        CDV_PORT="99999",
        CDV_READ_AUTH="maybe",
        CDV_RATE_LIMIT_READS="many",
        CDV_TLS_CERT="/nowhere",
        CDV_WORKERS="0",
    )
    assert result.code == 2
    lines = result.err.splitlines()
    assert all(line.startswith("cdv: CDV_") for line in lines)
    for name in ("CDV_PORT", "CDV_READ_AUTH", "CDV_RATE_LIMIT_READS", "CDV_TLS_CERT", "CDV_WORKERS"):
        assert sum(line.startswith(f"cdv: {name}") for line in lines) >= 1, result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("env", ["staging", "prod"])
def test_outside_development_required_settings_have_no_defaults(cdv: Cdv, env: str, tmp_path: Path) -> None:
    result = cdv("serve", CDV_ENV=env)
    assert result.code == 2
    for name in ("CDV_DB_DSN", "CDV_S3_ENDPOINT", "CDV_S3_BUCKET", "CDV_JWT_ISSUER", "CDV_JWT_AUDIENCE"):
        assert f"{name}: required when CDV_ENV is {env}" in result.err
    assert not (tmp_path / ".cdv").exists()


def test_secrets_in_plain_text_are_refused_in_production(cdv: Cdv) -> None:
    result = cdv("config", **{**PRODUCTION, "CDV_DB_DSN": "postgresql://cdv:hunter2@db/cdv"})
    assert result.code == 2
    assert "CDV_DB_DSN" in result.err
    assert "hunter2" not in result.err


def test_a_misspelt_variable_is_reported(cdv: Cdv) -> None:
    result = cdv("config", CDV_MAX_BODY_BYTE="5")
    assert result.code == 0
    assert "CDV_MAX_BODY_BYTE " in result.err


def test_the_env_file_is_read_in_development_only_and_the_environment_wins(cdv: Cdv, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CDV_PORT=1234\nCDV_READ_AUTH=token\n")
    lines = cdv("config", CDV_READ_AUTH="public").out.splitlines()
    assert "CDV_PORT=1234" in lines
    assert "CDV_READ_AUTH=public" in lines
    assert "CDV_PORT=8080" in cdv("config", **PRODUCTION).out.splitlines()


def test_the_port_is_set_by_port_or_cdv_port(cdv: Cdv) -> None:
    assert "CDV_PORT=7001" in cdv("config", PORT="7001").out.splitlines()
    assert "CDV_PORT=7002" in cdv("config", PORT="7001", CDV_PORT="7002").out.splitlines()


def test_check_tries_each_dependency(cdv: Cdv, tmp_path: Path) -> None:
    result = cdv("check")
    assert (result.code, result.err) == (0, "")
    assert "settings" in result.out
    assert "database" in result.out
    assert "object_store" in result.out
    (tmp_path / ".cdv" / "media" / "incoming").rmdir()
    (tmp_path / ".cdv" / "media" / "incoming").write_text("in the way")
    result = cdv("check")
    result.out = result.out.removeprefix("ok   settings\n")
    one_line(result, 1, "media")


def test_check_reports_every_dependency_that_is_down(cdv: Cdv, port: str) -> None:
    result = cdv(
        "check",
        CDV_DB_DSN=f"postgresql://cdv@127.0.0.1:{port}/cdv?connect_timeout=1",
        CDV_JWT_ISSUER=f"http://127.0.0.1:{port}",
        CDV_NATS_URL=f"nats://127.0.0.1:{port}",
    )
    assert result.code == 1
    assert "database" not in result.err
    assert "FAIL database (critical): cannot reach the database: " in result.out
    assert "; CDV_NATS_URL: start NATS" in result.out
    assert "; CDV_JWKS_URL or CDV_JWT_ISSUER: start the issuer" in result.out
    assert {line.split()[1]: line.split()[0] for line in result.out.splitlines()} == {
        "settings": "ok",
        "database": "FAIL",
        "object_store": "ok",
        "issuer": "FAIL",
        "events": "FAIL",
    }


def test_check_tries_the_store_of_the_rate_limits(cdv: Cdv, port: str) -> None:
    result = cdv("check", CDV_RATE_LIMIT_STORAGE=f"redis://127.0.0.1:{port}")
    assert result.code == 1
    assert "ok   database" in result.out
    [line] = [line for line in result.out.splitlines() if "rate_limits" in line]
    assert line.startswith("FAIL rate_limits (not critical): ")
    assert line.endswith("; CDV_RATE_LIMIT_STORAGE: start the store, or correct its address")


def test_check_times_out_a_rate_limit_store_that_does_not_respond(cdv: Cdv) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = cdv("check", CDV_RATE_LIMIT_STORAGE=f"redis://127.0.0.1:{silent.getsockname()[1]}")
    [line] = [line for line in result.out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL rate_limits (not critical): ")
    assert line.endswith("; CDV_RATE_LIMIT_STORAGE: start the store, or correct its address")


def test_check_names_the_setting_behind_a_catalogue_that_cannot_be_fetched(cdv: Cdv, port: str) -> None:
    result = cdv("check", CDV_SPECS_URL=f"http://127.0.0.1:{port}/")
    [line] = [line for line in result.out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL schemas (not critical): ")
    assert line.endswith("; CDV_SPECS_URL: correct the address")


def test_check_says_that_a_secret_cannot_be_read(cdv: Cdv, tmp_path: Path, port: str) -> None:
    absent = f"file:{tmp_path / 'absent'}"
    store = {"CDV_S3_ENDPOINT": f"http://127.0.0.1:{port}", "CDV_S3_BUCKET": "media"}
    result = cdv("check", **store, CDV_S3_ACCESS_KEY=absent, CDV_S3_SECRET_KEY=absent)
    [line] = [line for line in result.out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL object_store (not critical): ")
    assert "correct the reference in the setting" in line


def test_check_refuses_a_rate_limit_storage_that_serve_refuses(cdv: Cdv) -> None:
    result = cdv("check", CDV_RATE_LIMIT_STORAGE="redis://host:x")
    assert result.code == 1
    assert "cannot use CDV_RATE_LIMIT_STORAGE" in result.err
    assert "ok   database" in result.out


def test_migrate_reports_what_it_did(cdv: Cdv, tmp_path: Path) -> None:
    first, second = cdv("migrate"), cdv("migrate")
    assert (first.code, first.err, second.code, second.err) == (0, "", 0, "")
    assert first.out.startswith("applied 001_initial\napplied 002_")
    assert second.out == "nothing to do: the database is up to date\n"
    with sqlite3.connect(tmp_path / ".cdv" / "vault.sqlite3") as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] >= 1
    connection.close()


def test_every_setting_is_documented(cdv: Cdv) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert cdv("config", "--markdown").out in documented


@pytest.mark.parametrize("content", [b"[1,", b"\xff", b"[" * 100_000], ids=["cut short", "no UTF-8", "deep"])
def test_an_invalid_json_file_is_named_in_the_error(cdv: Cdv, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "new.json").write_bytes(content)
    one_line(cdv("schemas", "validate", "new.json"), 2, "new.json: ")
    one_line(cdv("schemas", "diff", "old.json", "new.json"), 2, "new.json: ")


@pytest.mark.parametrize(
    "arguments", [("events",), ("schemas", "rehearse", "--specs-url", CATALOGUE.as_uri())], ids=["events", "rehearse"]
)
def test_reading_a_missing_vault_warns_once(cdv: Cdv, arguments: tuple[str, ...]) -> None:
    first, second = cdv(*arguments), cdv(*arguments)
    assert (first.code, first.err) == (
        0,
        "cdv: warning: there is no vault in .cdv; set CDV_DATA_DIR if yours is elsewhere\n",
    )
    assert (second.code, second.err) == (0, "")


OUTPUT = (["config"], ["--help"], ["schemas", "list"], ["schemas", "show", "com.registryaccord.profile"])


def run_into(output: int, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the command with buffered output, as a shell does; return the exit code and standard error."""
    variables = {**environment(folder), "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(
        [CDV, *arguments], env=variables, cwd=folder, stdout=output, stderr=subprocess.PIPE, check=False
    )
    return ended.returncode, printed(ended.stderr.decode())


@pytest.mark.parametrize("arguments", OUTPUT, ids=" ".join)
def test_output_to_a_closed_pipe_is_no_failure(tmp_path: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run_into(writer, arguments, tmp_path) == (0, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", OUTPUT, ids=" ".join)
def test_output_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        code, err = run_into(full.fileno(), arguments, tmp_path)
    assert code == 1
    assert err == "cdv: cannot write the output: No space left on device; make room, or send it elsewhere\n"
