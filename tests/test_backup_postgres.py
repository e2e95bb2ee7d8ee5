"""Point-in-time recovery as docs/backup.md describes it: PostgreSQL's own tools, then `cdv events reconcile`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import nats
import psycopg
import pytest

from tests.http.running import CDV, RunningVault, environment
from tests.leaks import secret
from tests.servers import NoServer, PostgresServer
from tests.servers import process as processes

pytestmark = pytest.mark.long
DID = "did:example:ada"


class Archiving:
    """A PostgreSQL that archives its write-ahead log, in a directory that is kept when it is killed."""

    def __init__(self) -> None:
        from tests.servers.postgres import programs_for_anybody

        self.identity = processes.unprivileged()
        self.directory = processes.new_directory("cdv-pitr-", durable=True, owner=self.identity)
        self.archive, self.base = self.directory / "archive", self.directory / "base"
        self.archive.mkdir()
        self.own(self.archive)
        self.programs = programs_for_anybody(self.directory)
        self.password = secret(secrets.token_hex(16), "a Postgres password")
        (self.directory / "password").write_text(self.password, encoding="ascii")
        self.run(
            "initdb", "--username=postgres", "--auth=scram-sha-256", f"--pwfile={self.directory / 'password'}",
            "--encoding=UTF8", "--locale=C", "--pgdata", self.directory / "data",
        )  # fmt: skip

    def own(self, path: Path) -> None:
        if self.identity:
            os.chown(path, self.identity["user"], self.identity["group"])

    def run(self, program: str, *words: str | Path) -> None:
        done = subprocess.run(
            [self.programs / program, *words], cwd=self.directory, capture_output=True, text=True, check=False,
            env={**processes.environment(self.directory), "PGPASSWORD": self.password}, **self.identity,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def serve(self, data: Path) -> PostgresServer:
        """Return a server on `data`, not yet started; its log is archived as the page says."""
        port = processes.free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "archive_mode": "on",
            "archive_command": f"test ! -f {self.archive}/%f && cp %p {self.archive}/%f",
        }
        words = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        host = processes.Process(
            [self.programs / "postgres", "-D", data, *words],
            port=port,
            directory=self.directory,
            identity=self.identity,
            stop_signal=signal.SIGINT,
        )
        return PostgresServer(host, f"postgresql://postgres:{self.password}@127.0.0.1:{port}/postgres")


def write(vault: RunningVault, count: int) -> list[str]:
    """Return the URIs of records that were acknowledged."""
    headers = {"Authorization": f"Bearer {vault.token(DID)}"}
    with httpx.Client(base_url=vault.base, headers=headers, timeout=30) as http:
        body = {"did": DID, "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}
        return [http.post("/v1/repo/record", json=body).raise_for_status().json()["data"]["uri"] for _ in range(count)]


def everything(vault: RunningVault) -> list[str]:
    answer = httpx.get(f"{vault.base}/v1/repo/listRecords", params={"did": DID, "limit": 100}, timeout=30)
    return [record["uri"] for record in answer.json()["data"]["records"]]


def scalar(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def wait_until(dsn: str, query: str) -> None:
    deadline = time.monotonic() + 60
    while not scalar(dsn, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.05)


async def published(nats_url: str) -> Counter[str]:
    """Return how often each record's URI is in the stream."""
    client = await nats.connect(nats_url)
    try:
        subscription = await client.jetstream().subscribe("cdv.records.>", ordered_consumer=True)
        found: Counter[str] = Counter()
        count = (await client.jetstream().stream_info("RA_RECORDS")).state.messages
        while found.total() < count:
            message = await subscription.next_msg(timeout=10)
            found[json.loads(message.data)["payload"]["uri"]] += 1
        return found
    finally:
        await client.close()


async def test_point_in_time_recovery_restores_the_vault_and_reconciles_its_stream(
    tmp_path: Path, nats_url: str
) -> None:
    try:
        cluster = Archiving()
    except NoServer as error:
        pytest.skip(str(error))
    all_published = "SELECT count(*) = 0 FROM op_log WHERE stream_sequence IS NULL"
    with cluster.serve(cluster.directory / "data") as postgres:
        vault = RunningVault(tmp_path / "data", CDV_DB_DSN=postgres.dsn, CDV_NATS_URL=nats_url)
        try:
            before = write(vault, 5)
            cluster.run("pg_basebackup", "--dbname", postgres.dsn, "--pgdata", cluster.base, "--checkpoint=fast")
            after_base = write(vault, 5)
            moment = scalar(postgres.dsn, "SELECT clock_timestamp()").isoformat()
            lost = write(vault, 5)
            wait_until(postgres.dsn, all_published)
        finally:
            vault.kill()
        segment = scalar(postgres.dsn, "SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(postgres.dsn, f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver")
        postgres.kill()

        restored = cluster.directory / "restored"
        shutil.copytree(cluster.base, restored)
        for path in (restored, *restored.rglob("*")):
            cluster.own(path)
        restored.chmod(0o700)
        with (restored / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"restore_command = 'cp {cluster.archive}/%f %p'\n")
            settings.write(f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n")
        (restored / "recovery.signal").touch()
        cluster.own(restored / "recovery.signal")
        with cluster.serve(restored) as again:
            wait_until(again.dsn, "SELECT NOT pg_is_in_recovery()")
            done = subprocess.run(
                [CDV, "events", "reconcile", "--json"],
                env=environment(tmp_path / "data", CDV_DB_DSN=again.dsn, CDV_NATS_URL=nats_url),
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            vault = RunningVault(tmp_path / "data", CDV_DB_DSN=again.dsn, CDV_NATS_URL=nats_url)
            try:
                assert everything(vault) == [*reversed(before + after_base)]
                new = write(vault, 3)
                assert everything(vault) == [*reversed(before + after_base + new)]
                wait_until(again.dsn, all_published)
            finally:
                vault.kill()
            # Each event once, those of lost records too: a stream is never rewritten.
            assert await published(nats_url) == Counter(before + after_base + lost + new)
