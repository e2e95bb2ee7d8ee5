"""Secrets by reference in a process: every kind, rotation, outages, and no secret in any output (spec: secrets)."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
from psycopg import sql

from tests.adapters.kms import ENVIRONMENT as AWS
from tests.adapters.kms import KmsServer
from tests.fakes.s3 import Answer
from tests.fakes.s3 import ScriptedS3 as ScriptedServer
from tests.fakes.vault import FakeVault
from tests.http.running import CDV, RunningVault, environment
from tests.leaks import printed, secret
from tests.servers import Bucket, NatsServer, NoServer, PostgresServer
from tests.servers.process import free_port

RECOVERY_SECONDS = 60
KINDS = ("file", "vault", "awskms")
VAULT_TOKEN = secret("hvs.keepers-token", "a Vault token")


@pytest.fixture(scope="module")
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


class SecretSource:
    """A secret source of one kind. `settings`: those with which the service reads it."""

    def __init__(self, kind: str, folder: Path, kms: KmsServer, stack: ExitStack) -> None:
        self.kind = kind
        self._folder = folder
        self._kms = kms
        self.vault = FakeVault(tokens={VAULT_TOKEN})
        self.settings: dict[str, str] = {}
        if kind == "vault":
            server = stack.enter_context(ScriptedServer(self.vault.answer))
            self.settings = {"VAULT_ADDR": server.url, "VAULT_TOKEN": VAULT_TOKEN}
        elif kind == "awskms":
            files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/nonexistent")
            self.settings = {**AWS, **files, "AWS_ENDPOINT_URL_KMS": kms.url}

    def store(self, name: str, value: str, env: str) -> str:
        """Store the secret under that name; return its reference."""
        if self.kind == "file":
            (self._folder / name).write_text(f"{value}\n")
            return f"file:{self._folder / name}"
        if self.kind == "vault":
            self.vault.secrets[("", "kv", name)] = {"value": value}
            return f"vault:kv/{name}#value"
        return self._kms.encrypted(value, env)


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path, kms: KmsServer) -> Iterator[SecretSource]:
    with ExitStack() as stack:
        yield SecretSource(request.param, tmp_path, kms, stack)


@pytest.fixture(scope="module")
def locked_nats() -> Iterator[NatsServer]:
    """A NATS server that requires credentials."""
    try:
        server = NatsServer.from_wheel(durable=False, credentials=True)
    except NoServer as error:
        pytest.skip(str(error))
    with server:
        yield server


def run(folder: Path, command: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [CDV, command, *arguments],
        env=environment(folder / "data", **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed(ended.stdout + ended.stderr)
    return ended


def test_every_secret_may_be_a_reference_of_every_kind(
    source: SecretSource, postgres_dsn: str, s3_bucket: Bucket, locked_nats: NatsServer, tmp_path: Path
) -> None:
    assert locked_nats.credentials_file
    creds = locked_nats.credentials_file.read_text()
    password = urlsplit(postgres_dsn).password
    assert password
    settings = {
        **source.settings,
        "CDV_ENV": "staging",
        "CDV_DB_DSN": source.store("dsn", postgres_dsn, "staging"),
        "CDV_S3_ENDPOINT": s3_bucket.endpoint,
        "CDV_S3_REGION": s3_bucket.region,
        "CDV_S3_BUCKET": s3_bucket.name,
        "CDV_S3_ACCESS_KEY": source.store("access", s3_bucket.access_key, "staging"),
        "CDV_S3_SECRET_KEY": source.store("secret", s3_bucket.secret_key, "staging"),
        "CDV_NATS_URL": locked_nats.url,
        "CDV_NATS_CREDS": source.store("creds", creds, "staging"),
        "CDV_JWT_ISSUER": f"http://127.0.0.1:{free_port()}",
        "CDV_JWT_AUDIENCE": "cdv",
    }
    checked = run(tmp_path, "check", **settings)
    results = {line.split()[1]: line.split()[0] for line in checked.stdout.splitlines()}
    assert results == {"settings": "ok", "database": "ok", "object_store": "ok", "events": "ok", "issuer": "FAIL"}, (
        checked.stdout + checked.stderr
    )
    shown = checked.stdout + checked.stderr + run(tmp_path, "config", **settings).stdout
    for each in (password, s3_bucket.secret_key, creds.splitlines()[1], VAULT_TOKEN):
        assert each not in shown


def test_a_password_within_the_connection_string_may_be_a_reference(
    source: SecretSource, postgres_dsn: str, tmp_path: Path
) -> None:
    parts = urlsplit(postgres_dsn)
    reference = source.store("password", parts.password or "", "dev")
    words = f"host={parts.hostname} port={parts.port} user={parts.username} dbname={parts.path[1:]}"
    migrated = run(tmp_path, "migrate", **source.settings, CDV_DB_DSN=f"{words} password='{reference}'")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert "applied" in migrated.stdout


class Role:
    """The owner of a database, whose password tests rotate."""

    def __init__(self, server: PostgresServer, dsn: str) -> None:
        self._server, self._parts = server, urlsplit(dsn)
        self.name = f"vault_{secrets.token_hex(4)}"
        self._execute("CREATE ROLE {} LOGIN")
        self._execute("ALTER DATABASE {} OWNER TO {}", self._parts.path[1:], self.name)

    def changed(self) -> str:
        """Set another password; return the DSN with it."""
        self.password = secret(secrets.token_hex(16), "a role's password")
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(self.name), self.password)
            connection.execute(statement)
        return self._parts._replace(
            netloc=f"{self.name}:{self.password}@{self._parts.netloc.rpartition('@')[2]}"
        ).geturl()

    def cut_off(self) -> int:
        """End the role's connections; return how many there were."""
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            return connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (self.name,)
            ).rowcount

    def drop(self) -> None:
        self.cut_off()
        self._execute("ALTER DATABASE {} OWNER TO postgres", self._parts.path[1:])
        with psycopg.connect(self._parts._replace(path=self._parts.path).geturl(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(self.name)))
        self._execute("DROP ROLE {}")

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            quoted = [sql.Identifier(name) for name in names or (self.name,)]
            connection.execute(sql.SQL(statement).format(*quoted))


@pytest.fixture
def role(postgres_server: PostgresServer, postgres_dsn: str) -> Iterator[Role]:
    made = Role(postgres_server, postgres_dsn)
    yield made
    made.drop()


def wait_until_writable(vault: RunningVault) -> None:
    """Wait until a record can be written."""
    token = vault.token("did:example:ada")
    body = {"did": "did:example:ada", "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        answer = httpx.post(f"{vault.base}/v1/repo/record", json=body, headers={"Authorization": f"Bearer {token}"})
        if answer.status_code == 200:
            return
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, vault.log
        time.sleep(0.05)


@pytest.mark.parametrize("source", ["file", "vault"], indirect=True)
def test_a_rotated_password_is_reloaded_an_outage_is_bridged_and_no_secret_leaks(
    source: SecretSource, role: Role, tmp_path: Path
) -> None:
    reference = source.store("dsn", role.changed(), "dev")
    passwords = [role.password]
    vault = RunningVault(tmp_path / "data", **source.settings, CDV_DB_DSN=reference)
    try:
        wait_until_writable(vault)
        source.store("dsn", role.changed(), "dev")
        passwords.append(role.password)
        assert role.cut_off() > 0
        wait_until_writable(vault)
        # The source is down: new connections use the last value read.
        source.vault.override = Answer(503)
        (tmp_path / "dsn").unlink(missing_ok=True)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while "its last value is used" not in vault.log:
            role.cut_off()
            wait_until_writable(vault)
            assert time.monotonic() < deadline, vault.log
        processes = [psutil.Process(vault.process.pid), *psutil.Process(vault.process.pid).children(recursive=True)]
        titles = " ".join(part for process in processes for part in process.cmdline())
        exposed = vault.log + httpx.get(f"{vault.base}/metrics").text + titles
        for each in (*passwords, VAULT_TOKEN):
            assert each not in exposed
        assert "Connection pool is full" not in vault.log
    finally:
        vault.kill()


UNREACHABLE: dict[str, Callable[[Path], dict[str, str]]] = {
    "file": lambda folder: {"CDV_DB_DSN": f"file:{folder}/absent"},
    "vault": lambda _: {
        "CDV_DB_DSN": "vault:kv/cdv#dsn",
        "VAULT_ADDR": f"http://127.0.0.1:{free_port()}",
        "VAULT_TOKEN": VAULT_TOKEN,
    },
    "awskms": lambda _: {
        **AWS,
        "CDV_DB_DSN": "awskms:AAAA",
        "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:{free_port()}",
        "AWS_CONFIG_FILE": "/nonexistent",
    },
}


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_an_unreachable_source_at_the_start_is_reported_in_one_line_in_bounded_time(kind: str, tmp_path: Path) -> None:
    started = time.monotonic()
    refused = run(tmp_path, "serve", "--port", str(free_port()), **UNREACHABLE[kind](tmp_path))
    assert time.monotonic() - started < 60
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("cdv: cannot reach the secret source: ")
    assert "CDV_DB_DSN" in refused.stderr
    assert VAULT_TOKEN not in refused.stderr
