"""`cdv doctor`: what is well it says, what is not it names with its setting, and nothing of its own stays behind."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from minio import Minio

from cdv_adapters.bootstrap import DOCTOR_DID_PREFIX, open_service, remove_doctor_data
from cdv_adapters.container import local_issuer
from cdv_adapters.schemas.url import UrlSchemas
from cdv_adapters.settings import Settings, read_settings
from cdv_core.domain.identifiers import Did
from cdv_core.errors import Unavailable
from cdv_http import cli as command_line
from cdv_http.commands import doctor
from tests.chaos.web_page import WebPages
from tests.command_line import Cli
from tests.core.catalogues import publish
from tests.http.running import CDV, RunningVault, environment
from tests.leaks import printed, secret
from tests.servers import Bucket
from tests.servers.process import free_port
from tests.servers.proxy import FaultProxy

STEPS = ["open", "token", "op log", "record", "retry", "listing", "upload init", "upload", "finalize", "content"]
END = ["entries", "cleanup"]
TABLES = ("records", "replies", "assets", "op_log", "accounts")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(monkeypatch, capfd, tmp_path)


def steps(out: str, verdict: str) -> list[str]:
    return [line[6:26].strip() for line in out.splitlines() if line.startswith(verdict)]


def failure(out: str, step: str) -> str:
    (line,) = (line for line in out.splitlines() if line.startswith("FAIL") and line[6:26].strip() == step)
    return line


# The embedded vault


def test_the_embedded_vault_is_well_and_nothing_stays(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("doctor", data_dir=tmp_path / "vault")
    assert (code, err) == (0, "")
    assert steps(out, "ok") == [*STEPS, *END]
    assert steps(out, "FAIL") == steps(out, "note") == []
    with sqlite3.connect(tmp_path / "vault" / "vault.sqlite3") as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    connection.close()
    assert not [it for it in (tmp_path / "vault" / "media").rglob("*") if it.is_file() and it.suffix != ".key"]


def test_nothing_stays_when_its_reader_goes_midway(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def say(line: str, *, flush: bool) -> None:
        if len(heard) == STEPS.index("record") + 1:
            raise BrokenPipeError
        heard.append(line)

    monkeypatch.setattr(doctor, "print", say, raising=False)
    monkeypatch.setattr(command_line, "_discard_output", lambda: None)  # it is pytest's here
    assert cli("doctor", data_dir=tmp_path / "vault") == (0, "", "")
    assert steps("\n".join(heard), "ok") == STEPS[: len(heard)]
    with sqlite3.connect(tmp_path / "vault" / "vault.sqlite3") as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    connection.close()


def test_a_vault_that_takes_other_media_types_passes(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("doctor", data_dir=tmp_path / "vault", CDV_ALLOWED_MIME_TYPES="text/plain")
    assert (code, steps(out, "FAIL")) == (0, [])


def test_a_late_catalogue_is_none_of_its_steps(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UrlSchemas, "is_refreshing", True)
    url = publish(tmp_path / "specs", secret="owner")
    _, out, _ = cli("doctor", data_dir=tmp_path / "vault", CDV_SPECS_URL=url)
    assert set(steps(out, "ok")) | set(steps(out, "FAIL")) <= {*STEPS, *END}
    assert "upload init" in steps(out, "ok")


def test_a_data_dir_that_cannot_be_used_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = cli("doctor", data_dir=tmp_path / "file")
    assert code == 1
    assert "CDV_DATA_DIR" in out + err


def test_media_that_cannot_be_kept_is_named_and_the_records_go_on(cli: Cli, tmp_path: Path) -> None:
    cli("doctor", data_dir=tmp_path / "vault")
    objects = tmp_path / "vault" / "media" / "objects"
    objects.rename(tmp_path / "away")
    objects.symlink_to(tmp_path / "nowhere")
    code, out, err = cli("doctor", data_dir=tmp_path / "vault")
    assert code == 1
    assert "CDV_DATA_DIR" in out + err


def test_a_database_that_cannot_be_opened_says_itself_what_to_do(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "vault.sqlite3").write_text("not of SQLite")
    code, out, _ = cli("doctor", data_dir=tmp_path / "vault")
    assert code == 1
    assert "restore a backup" in failure(out, "open")
    assert "disk is not full" not in out


async def test_nothing_but_the_doctors_own_can_be_forgotten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cdv doctor"):
        await remove_doctor_data(Settings.embedded(tmp_path), Did("did:example:ada"), [], [])


# A vault that is served


def test_a_served_vault_is_examined_from_outside(cli: Cli, tmp_path: Path) -> None:
    vault = RunningVault(tmp_path / "vault")
    try:
        code, out, err = cli("doctor", "--url", vault.base, data_dir=tmp_path / "vault")
        assert (code, err) == (0, "")
        assert steps(out, "ok") == STEPS[3:]
        assert "remains: " in out
        (tmp_path / "token").write_text(secret(vault.token("did:example:ada"), "a token") + "\n")
        code, out, _ = cli(
            "doctor", "--url", f"{vault.base}/", "--token-file", tmp_path / "token", data_dir=tmp_path / "other"
        )
        assert (code, "did:example:ada" in out) == (0, True)
        # Another issuer's token.
        code, out, _ = cli("doctor", "--url", vault.base, data_dir=tmp_path / "other")
        assert code == 1
        assert "CDV_JWT_INVALID" in failure(out, "record")
    finally:
        vault.kill()
    code, out, _ = cli("doctor", "--url", vault.base, data_dir=tmp_path / "vault")
    assert code == 1
    assert "--url" in failure(out, "record")


def test_the_events_of_a_served_vault_are_seen_from_outside(cli: Cli, tmp_path: Path, nats_url: str) -> None:
    settings = {"CDV_NATS_URL": nats_url}
    for serving, code in ((settings, 0), ({}, 1)):
        vault = RunningVault(tmp_path / "vault", **serving)
        try:
            words = ("doctor", "--url", vault.base, "--timeout", "5")
            result = cli(*words, data_dir=tmp_path / "vault", **settings)
        finally:
            vault.kill()
        assert result[0] == code, result
        assert {"streams", "record", "content"} <= set(steps(result[1], "ok"))
        assert ("event" in steps(result[1], "ok")) == (code == 0)
    assert "CDV_NATS_URL" in failure(result[1], "event")


def test_a_token_file_that_is_not_there_is_one_line(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("doctor", "--token-file", tmp_path / "none", data_dir=tmp_path / "vault")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_a_token_that_is_refused_is_to_blame_and_not_its_issuer(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("no token")
    code, out, _ = cli("doctor", "--token-file", tmp_path / "token", data_dir=tmp_path / "vault")
    assert code == 1
    assert "--token-file" in failure(out, "token")
    assert "start the issuer" not in out


@pytest.mark.parametrize("seconds", ["0", "-5", "soon", "9" * 400])
def test_a_step_gets_a_second_at_least_and_an_hour_at_most(cli: Cli, tmp_path: Path, seconds: str) -> None:
    code, out, err = cli("doctor", "--timeout", seconds, data_dir=tmp_path / "vault")
    assert (code, out) == (2, "")
    assert "--timeout" in err


def test_without_a_token_of_the_issuer_a_served_vault_is_not_examined(cli: Cli, tmp_path: Path) -> None:
    settings = {"CDV_JWT_ISSUER": "http://127.0.0.1:1"}
    code, out, _ = cli("doctor", "--url", "http://127.0.0.1:1", data_dir=tmp_path / "vault", **settings)
    assert (code, steps(out, "FAIL")) == (1, ["token"])
    assert "--token-file" in out


# Production's adapters, each behind a proxy


class Production:
    """All that production depends on. `settings` lead through `proxies`, by dependency."""

    def __init__(self, dsn: str, nats_url: str, bucket: Bucket, issuer: WebPages, folder: Path) -> None:
        self.dsn, self.bucket = dsn, bucket
        key = local_issuer(read_settings(data_dir=folder, jwt_issuer=issuer.url, jwt_audience="cdv"))
        issuer.pages["/.well-known/jwks.json"] = json.dumps(key.jwks()).encode()
        self.token = secret(key.issue(Did("did:example:ada"), 3600, datetime.now(UTC)), "a token")
        urls = {"database": dsn, "events": nats_url, "object_store": bucket.endpoint, "issuer": issuer.url}
        self.proxies = {name: FaultProxy(url) for name, url in urls.items()}
        self.settings = {
            "CDV_DB_DSN": self.proxies["database"].url,
            "CDV_NATS_URL": self.proxies["events"].url,
            "CDV_S3_ENDPOINT": self.proxies["object_store"].url,
            "CDV_S3_REGION": bucket.region,
            "CDV_S3_BUCKET": bucket.name,
            "CDV_S3_ACCESS_KEY": bucket.access_key,
            "CDV_S3_SECRET_KEY": bucket.secret_key,
            "CDV_JWT_ISSUER": issuer.url,
            "CDV_JWKS_URL": f"{self.proxies['issuer'].url}/.well-known/jwks.json",
            "CDV_JWT_AUDIENCE": "cdv",
        }

    def left(self) -> dict[str, int]:
        """Return how many rows and objects there are."""
        with psycopg.connect(self.dsn) as connection:
            counts = {
                table: int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0])  # type: ignore[index]
                for table in TABLES
            }
        client = Minio(
            self.bucket.endpoint.partition("://")[2],
            self.bucket.access_key,
            self.bucket.secret_key,
            secure=False,
            region=self.bucket.region,
        )
        return {**counts, "objects": len(list(client.list_objects(self.bucket.name, recursive=True)))}


@pytest.fixture
def production(postgres_dsn: str, nats_url: str, s3_bucket: Bucket, tmp_path: Path) -> Iterator[Production]:
    with ExitStack() as stack:
        issuer = stack.enter_context(WebPages({}))
        it = Production(postgres_dsn, nats_url, s3_bucket, issuer, tmp_path / "issuer")
        for proxy in it.proxies.values():
            stack.enter_context(proxy)
        yield it


def test_production_is_well_and_only_published_events_stay(cli: Cli, production: Production, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(production.token)
    words = ("doctor", "--token-file", tmp_path / "token")
    for _ in range(2):
        code, out, _ = cli(*words, data_dir=tmp_path / "data", **production.settings)
        assert code == 0, out
        assert set(steps(out, "ok")) == {*STEPS, "prepare the bucket", "event", *END}
        assert "2 published events of did:example:cdv-doctor-" in out
        assert set(production.left().values()) == {0}
    # The events that stayed look like no loss, and those that are gone from the op log are not missed.
    code, out, _ = cli("events", "reconcile", "--json", data_dir=tmp_path / "data", **production.settings)
    assert code == 0
    assert [json.loads(line)["requeued"] for line in out.splitlines()] == [0, 0]


NAMED = {
    "database": ("open", "CDV_DB_DSN"),
    "events": ("event", "CDV_NATS_URL"),
    "object_store": ("prepare the bucket", "CDV_S3_ENDPOINT"),
    "issuer": ("token", "CDV_JWKS_URL"),
}


@pytest.mark.parametrize("fault", ["cut", "hang"])
@pytest.mark.parametrize("dependency", NAMED)
def test_what_is_down_is_named_with_its_setting_in_bounded_time(
    production: Production, tmp_path: Path, dependency: str, fault: str
) -> None:
    getattr(production.proxies[dependency], fault)()
    done = subprocess.run(
        [CDV, "doctor", "--timeout", "4"],
        env=environment(tmp_path / "data", **production.settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    step, setting = NAMED[dependency]
    assert done.returncode == 1
    assert "Traceback" not in printed(done.stderr)
    assert setting in failure(done.stdout, step)
    assert steps(done.stdout, "FAIL") == [step]
    if dependency == "database":
        return
    assert "record" in steps(done.stdout, "ok")
    assert ("content" in steps(done.stdout, "ok")) == (dependency != "object_store")
    assert set(production.left().values()) == {0}


async def test_an_asset_whose_bytes_cannot_be_removed_is_left_to_the_sweep(
    production: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**production.settings, "CDV_DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    settings, did = read_settings(), Did(f"{DOCTOR_DID_PREFIX}1")
    async with open_service(settings) as service:
        upload = await service.vault.media.init_upload(did=did, mime_type="image/png", size=1)
    production.proxies["object_store"].cut()
    with pytest.raises(Unavailable):
        await remove_doctor_data(settings, did, [upload.asset], [])
    assert production.left() == {**dict.fromkeys([*TABLES, "objects"], 0), "assets": 1, "accounts": 1}
    production.proxies["object_store"].heal()
    await remove_doctor_data(settings, did, [upload.asset], [])
    assert set(production.left().values()) == {0}


def test_a_port_where_nobody_listens_is_named(cli: Cli, production: Production, tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    settings = {**production.settings, "CDV_DB_DSN": f"postgresql://cdv@{dead}/cdv"}
    code, out, err = cli("doctor", data_dir=tmp_path / "data", **settings)
    assert code == 1
    assert "CDV_DB_DSN" in out + err
