"""The proxies of the guide and of the Compose stack hide internal paths in every spelling."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.http.running import START_SECONDS, RunningVault
from tests.servers.process import free_port

PAGE = blocks("docs/guides/behind-a-proxy.md", "text")
CADDYFILE = (ROOT / "deploy" / "compose" / "Caddyfile").read_text(encoding="utf-8")
INTERNAL_PATHS = (
    *("/metrics", "/metrics/", "/metrics//", "//metrics/", "/%6detrics%2F", "/x/../metrics/"),
    *("/readyz", "/readyz/", "//readyz", "/readyz%2f"),
)


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def serves(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return status(port, "/healthz") == 200
    return False


@pytest.fixture
def caddy(tmp_path: Path) -> Iterator[int]:
    """The port of the guide's Caddy, in front of a vault."""
    if shutil.which("caddy") is None:
        pytest.skip("no caddy here")
    vault, port = RunningVault(tmp_path / "data"), free_port()
    (example,) = (block for block in PAGE if "reverse_proxy" in block)
    site = example.replace("vault.example.com", f"http://127.0.0.1:{port}").replace(
        "10.0.0.5:8080", f"127.0.0.1:{vault.port}"
    )
    (tmp_path / "Caddyfile").write_text("{\nadmin off\n}\n" + site, encoding="utf-8")
    proxy = subprocess.Popen(
        ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/usr/local/bin", "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not serves(port):
            assert proxy.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield port
    finally:
        proxy.kill()
        proxy.wait()
        vault.kill()


def test_caddy_hides_internal_paths_in_every_spelling_and_no_public_path(caddy: int) -> None:
    assert {path: status(caddy, path) for path in INTERNAL_PATHS} == dict.fromkeys(INTERNAL_PATHS, 404)
    assert status(caddy, "/openapi.json") == 200


def test_the_compose_stack_hides_the_same_paths_as_the_guide() -> None:
    (example,) = (block for block in PAGE if "reverse_proxy" in block)
    assert re.findall(r"^\s*(@ours path .*|respond @ours .*)$", CADDYFILE, re.MULTILINE) == re.findall(
        r"^\s*(@ours path .*|respond @ours .*)$", example, re.MULTILINE
    )


def test_the_nginx_pattern_matches_internal_paths_only() -> None:
    (example,) = (block for block in PAGE if "proxy_pass" in block)
    (pattern,) = re.findall(r"location ~ (\S+) \{\s+return 404;", example)
    # nginx matches the decoded path without repeated slashes.
    for path in ("/metrics", "/metrics/", "/metrics/x", "/readyz", "/readyz/"):
        assert re.match(pattern, path), path
    for path in ("/healthz", "/v1/repo/record", "/metricsx"):
        assert not re.match(pattern, path), path
