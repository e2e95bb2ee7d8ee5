"""The system under test: real servers with durable storage, and the service as a user would run it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from cdv_adapters.container import local_issuer
from cdv_adapters.settings import read_settings
from cdv_core.domain.identifiers import Did
from tests.chaos.replica import Replica
from tests.servers import Bucket, NatsServer, PostgresServer, VersionedS3Server, own
from tests.servers.process import new_directory

_UNLIMITED = "1000000/second"  # the limits are counted, and never reached


@dataclass(frozen=True)
class Stack:
    """`replica`: the service. `settings`: its own. `postgres`: the DSN. `token` mints a good token for a DID.

    Embedded, there are no other servers.
    """

    folder: Path
    replica: Replica
    url: str
    port: int
    settings: dict[str, str]
    token: Callable[[str], str]
    service: ProcessTree
    database: ProcessTree | None = None
    postgres: str = ""
    bucket: Bucket | None = None

    def settle(self) -> None:
        """Finish the work of the previous scenario: wait for its events, then vacuum and checkpoint Postgres."""
        self.wait_until_published()
        if self.postgres:
            with psycopg.connect(self.postgres, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")

    def wait_until_published(self) -> None:
        """Return when every event is published; at once without a broker."""
        if self.postgres and self.settings.get("CDV_NATS_URL"):
            with psycopg.connect(self.postgres, autocommit=True) as connection:
                while connection.execute("SELECT 1 FROM op_log WHERE stream_sequence IS NULL LIMIT 1").fetchone():
                    time.sleep(0.05)


@contextmanager
def stack(more: dict[str, str], *, embedded: bool = False) -> Iterator[Stack]:
    """Start everything on durable storage, and remove it afterwards."""
    with ExitStack() as running:
        folder = new_directory("cdv-bench-", durable=True)
        running.callback(shutil.rmtree, folder)
        settings = {
            "CDV_DATA_DIR": str(folder / "data"),
            "CDV_RATE_LIMIT_WRITES": _UNLIMITED,
            "CDV_RATE_LIMIT_READS": _UNLIMITED,
        }
        if embedded:
            yield _started(running, folder, settings | more)
            return
        postgres = running.enter_context(own(PostgresServer))
        nats = running.enter_context(own(NatsServer))
        store = running.enter_context(own(VersionedS3Server))
        dsn, bucket = postgres.create_database(), store.create_bucket()
        settings |= {
            "CDV_DB_DSN": dsn,
            "CDV_NATS_URL": nats.url,
            "CDV_S3_ENDPOINT": bucket.endpoint,
            "CDV_S3_BUCKET": bucket.name,
            "CDV_S3_ACCESS_KEY": bucket.access_key,
            "CDV_S3_SECRET_KEY": bucket.secret_key,
        }
        database = ProcessTree(_listening_on(postgres.host.port))
        yield replace(_started(running, folder, settings | more), postgres=dsn, bucket=bucket, database=database)


def _started(running: ExitStack, folder: Path, settings: dict[str, str]) -> Stack:
    issuer = local_issuer(read_settings(data_dir=folder / "data"))
    replica = running.enter_context(Replica(folder, settings))

    def token(did: str) -> str:
        return issuer.issue(Did(did), 24 * 3600, datetime.now(UTC))

    return Stack(folder, replica, replica.url, replica.port, settings, token, ProcessTree(psutil.Process(replica.pid)))


class ProcessTree:
    """A process and its children, measured together."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def cpu_seconds(self) -> float:
        """Return the CPU time used by it and by its children, whether running or waited for."""
        own, children = self._process.cpu_times(), []
        for child in self._process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                children.append(child.cpu_times())
        gone = own.children_user + own.children_system
        return float(gone + sum(it.user + it.system for it in [own, *children]))

    def resident_mib(self) -> list[float]:
        """Return the memory of each of its processes, the largest first."""
        family = [self._process, *self._process.children(recursive=True)]
        return sorted((it.memory_info().rss / 2**20 for it in family), reverse=True)


def _listening_on(port: int) -> psutil.Process:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise AssertionError(f"nobody listens on port {port}")
