"""A page of another origin in a real browser: everything is allowed if it is listed, else nothing (spec: CORS)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.browser.chromium import CHROMIUM, Chromium
from tests.http.api import PROFILE
from tests.http.running import RunningVault
from tests.servers import Bucket

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
DID = "did:example:page"

# The calls of an application's page, without any library; the browser judges it by its origin alone.
PAGE = """<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>Another origin</title><script>
async function answered(url, options = {}) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer;
}
async function use(base, token, did, collection) {
  const headers = {Authorization: `Bearer ${token}`, "Content-Type": "application/json"};
  const post = (path, body, more = {}) =>
    answered(base + path, {method: "POST", headers: {...headers, ...more}, body: JSON.stringify(body)});
  const seen = {};
  const created = await post("/v1/repo/record", {did, collection, record: {displayName: "Ada"}},
    {"Idempotency-Key": crypto.randomUUID(), "X-Correlation-Id": "from-a-page"});
  seen.correlation = created.headers.get("X-Correlation-Id");
  seen.limits = ["Limit", "Remaining", "Reset"].map(name => Number(created.headers.get(`X-RateLimit-${name}`)));
  seen.uri = (await created.json()).data.uri;
  const listed = await answered(`${base}/v1/repo/listRecords?did=${did}`, {headers});
  seen.listed = (await listed.json()).data.records.map(it => it.uri);
  seen.etag = (await answered(`${base}/v1/repo/record?uri=${seen.uri}`)).headers.get("ETag");
  const bytes = Uint8Array.from("\\x89PNG\\r\\n\\x1a\\nfrom a page", it => it.charCodeAt(0));
  const sha256 = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
    .map(it => it.toString(16).padStart(2, "0")).join("");
  const inited = await post("/v1/media/uploadInit", {did, mimeType: "image/png", size: bytes.length});
  const ticket = (await inited.json()).data;
  await answered(ticket.uploadUrl, {method: "PUT", body: bytes});
  seen.upload = new URL(ticket.uploadUrl).origin;
  const asset = (await (await post("/v1/media/finalize", {assetId: ticket.assetId, sha256})).json()).data;
  seen.checksum = asset.checksum === sha256;
  const content = await answered(`${base}/v1/media/${asset.assetId}/content`, {headers});
  seen.redirected = content.redirected;
  seen.download = new URL(content.url).origin;
  seen.same = new Uint8Array(await content.arrayBuffer()).join() === bytes.join();
  return seen;
}
const attempt = (...all) => use(...all).catch(error => ({stopped: String(error)}));
</script>"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def origin() -> Iterator[str]:
    """Serve the page; each server's port makes another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def listed() -> Iterator[str]:
    yield from origin()


@pytest.fixture(scope="module")
def unlisted() -> Iterator[str]:
    yield from origin()


@pytest.fixture(scope="module")
def embedded(listed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    running = RunningVault(tmp_path_factory.mktemp("cors") / "data", CDV_CORS_ALLOWED_ORIGINS=listed)
    yield running
    running.kill()


@pytest.fixture(
    params=["s3_bucket", "versioned_s3_bucket"]
)  # the first allows every origin, the second those in our rules
def bucket(request: pytest.FixtureRequest) -> Bucket:
    chosen: Bucket = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def on_s3(listed: str, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    running = RunningVault(
        tmp_path_factory.mktemp("cors-s3") / "data",
        CDV_CORS_ALLOWED_ORIGINS=listed,
        CDV_S3_ENDPOINT=bucket.endpoint,
        CDV_S3_REGION=bucket.region,
        CDV_S3_BUCKET=bucket.name,
        CDV_S3_ACCESS_KEY=bucket.access_key,
        CDV_S3_SECRET_KEY=bucket.secret_key,
    )
    yield running
    running.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def attempt(browser: Chromium, origin: str, vault: RunningVault) -> dict[str, Any]:
    browser.open(f"{origin}/", width=1280)
    arguments = json.dumps([vault.base, vault.token(DID), DID, PROFILE])
    seen: dict[str, Any] = browser.evaluate(f"attempt(...{arguments})")
    return seen


def check_all_done(seen: dict[str, Any]) -> None:
    assert "stopped" not in seen, seen
    assert seen["correlation"] == "from-a-page"
    limit, remaining, reset = seen["limits"]
    assert limit > remaining > 0
    assert reset > 0
    assert seen["uri"] in seen["listed"]
    assert seen["etag"].startswith('"bafyrei')
    assert seen["checksum"]
    assert seen["redirected"]
    assert seen["same"]


def test_a_page_of_a_listed_origin_can_use_every_operation(
    browser: Chromium, listed: str, embedded: RunningVault
) -> None:
    seen = attempt(browser, listed, embedded)
    check_all_done(seen)
    assert seen["upload"] == seen["download"] == embedded.base


def test_a_page_of_a_listed_origin_sends_media_straight_to_the_object_store(
    browser: Chromium, listed: str, on_s3: RunningVault, bucket: Bucket
) -> None:
    seen = attempt(browser, listed, on_s3)
    check_all_done(seen)
    assert seen["upload"] == seen["download"] == bucket.endpoint
    # After the redirect the browser sends `Origin: null`: so the bucket's rules allow GET from every origin.
    sent = [event["headers"] for name, event in browser.events if name == "Network.requestWillBeSentExtraInfo"]
    assert {headers["Origin"] for headers in sent if headers["Host"] in bucket.endpoint and "Origin" in headers} == {
        listed,
        "null",
    }
    assert not any("Authorization" in headers for headers in sent if headers["Host"] in bucket.endpoint)


def test_a_page_of_another_origin_is_blocked_by_the_browser(
    browser: Chromium, unlisted: str, embedded: RunningVault
) -> None:
    seen = attempt(browser, unlisted, embedded)
    assert set(seen) == {"stopped"}
    assert "Failed to fetch" in seen["stopped"]
    assert any("corsErrorStatus" in event for name, event in browser.events if name == "Network.loadingFailed")
    # The preflight was refused, so the request itself was never sent: nothing was written.
    assert "POST /v1/repo/record" not in embedded.log.split("OPTIONS /v1/repo/record 204")[-1]
