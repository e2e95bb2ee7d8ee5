"""The built image (`make image image-test`), without a network and with a read-only file system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.leaks import printed

IMAGE = os.environ.get("CDV_TEST_IMAGE", "")
START_SECONDS = 60

pytestmark = pytest.mark.skipif(not IMAGE, reason="CDV_TEST_IMAGE names no image (make image image-test)")


@pytest.fixture
def engine() -> Iterator[Any]:
    import docker

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def vault(engine: Any) -> Iterator[Any]:
    """A container confined as in deploy/: it is ready when its health check passes."""
    container = engine.containers.run(
        IMAGE,
        detach=True,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        tmpfs={"/tmp": ""},
        environment={"CDV_WORKERS": "2"},
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while container.attrs["State"].get("Health", {}).get("Status") != "healthy":
            assert container.status in {"created", "running"}, printed(container.logs().decode())
            assert time.monotonic() < deadline, container.attrs["State"]
            time.sleep(0.2)
            container.reload()
        yield container
    finally:
        container.remove(force=True, v=True)


def inside(container: Any, *command: str) -> str:
    code, output = container.exec_run(list(command))
    assert code == 0, output
    return str(output.decode())


def test_the_confined_container_serves_and_stops_cleanly(vault: Any) -> None:
    token = inside(vault, "cdv", "token", "--did", "did:example:ada").strip()
    write = (
        "import json, urllib.request\n"
        'record = {"did": "did:example:ada", "collection": "com.registryaccord.profile"}\n'
        'record["record"] = {"displayName": "Ada"}\n'
        'headers = {"Content-Type": "application/json", "Authorization": "Bearer TOKEN"}\n'
        'asked = urllib.request.Request("http://127.0.0.1:8080/v1/repo/record", json.dumps(record).encode(), headers)\n'
        "print(urllib.request.urlopen(asked).status)\n"
    )
    assert inside(vault, "python", "-c", write.replace("TOKEN", token)).strip() == "200"
    vault.stop(timeout=40)
    vault.reload()
    assert vault.attrs["State"]["ExitCode"] == 0
    assert "Traceback" not in printed(vault.logs().decode())


def test_the_user_is_unprivileged_and_owns_only_its_data(vault: Any) -> None:
    assert inside(vault, "id", "-u").strip() == "10001"
    assert inside(vault, "find", "/opt/cdv", "-user", "10001").strip() == ""
    assert inside(vault, "stat", "--format", "%a %u", "/data").strip() == "700 10001"


def test_the_image_contains_no_build_tools(vault: Any) -> None:
    assert inside(
        vault, "python", "-c", "import importlib.util as u; print(u.find_spec('pip'), u.find_spec('hatchling'))"
    ) == ("None None\n")
    for program in ("gcc", "curl", "git"):
        assert vault.exec_run(["which", program]).exit_code != 0


def test_the_image_contains_the_optional_dependencies(vault: Any) -> None:
    inside(vault, "python", "-c", "import botocore, redis, opentelemetry.sdk, opentelemetry.exporter.otlp.proto.http")
