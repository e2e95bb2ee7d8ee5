"""The proxies of the guide and of the stack keep to themselves what is for our own network, however it is asked for."""

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
CLOSED = (
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
    """The guide's Caddy before a vault: its port."""
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


def test_caddy_closes_them_in_every_spelling_and_nothing_else(caddy: int) -> None:
    assert {path: status(caddy, path) for path in CLOSED} == dict.fromkeys(CLOSED, 404)
    assert status(caddy, "/openapi.json") == 200


def test_the_stack_closes_what_the_guide_closes() -> None:
    (example,) = (block for block in PAGE if "reverse_proxy" in block)
    assert re.findall(r"^\s*(@ours path .*|respond @ours .*)$", CADDYFILE, re.MULTILINE) == re.findall(
        r"^\s*(@ours path .*|respond @ours .*)$", example, re.MULTILINE
    )


def test_nginx_is_told_of_the_same_paths() -> None:
    (example,) = (block for block in PAGE if "proxy_pass" in block)
    (pattern,) = re.findall(r"location ~ (\S+) \{\s+return 404;", example)
    # nginx looks at the path decoded, and without repeated slashes.
    for path in ("/metrics", "/metrics/", "/metrics/x", "/readyz", "/readyz/"):
        assert re.match(pattern, path), path
    for path in ("/healthz", "/v1/repo/record", "/metricsx"):
        assert not re.match(pattern, path), path
