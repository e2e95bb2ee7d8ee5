"""Real PostgreSQL, NATS and S3 servers for tests and benchmarks, with or without Docker.

with PostgresServer.from_wheel() as server, FaultProxy(server.create_database()) as proxy:
    ...  # connect to proxy.url; server.kill(); server.restart(); proxy.hang()
"""

from tests.servers.choice import describe, own, shared
from tests.servers.host import NoServer, ServerFailed
from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import Bucket, S3Server
from tests.servers.s3_versioned import VersionedS3Server
from tests.servers.server import Server

__all__ = [
    "Bucket",
    "FaultProxy",
    "NatsServer",
    "NoServer",
    "PostgresServer",
    "S3Server",
    "Server",
    "ServerFailed",
    "VersionedS3Server",
    "describe",
    "own",
    "shared",
]
