"""The HTTP client of the target, and creators who use it. Every exchange is recorded and checked against the laws."""

from __future__ import annotations

import hashlib
import json
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from conformance.http.exchanges import RECORDER, Exchange
from conformance.http.laws import Findings, code_of
from conformance.http.requirements import Nonconforming, Undecided
from conformance.http.tokens import KeyTokens, TokenSource
from conformance.http.transport import BoundedTransport

POST = "com.registryaccord.feed.post"
PROFILE = "com.registryaccord.profile"
FOLLOW = "com.registryaccord.graph.follow"
FLAG = "com.registryaccord.moderation.flag"
ASSET = "com.registryaccord.media.asset"
RECEIPT = ("uri", "cid", "indexedAt", "schemaVersion")  # http-api §3 record
RECORD, LIST = "/v1/repo/record", "/v1/repo/listRecords"
INIT, FINALIZE = "/v1/media/uploadInit", "/v1/media/finalize"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 20

RESPONSE_SECONDS = 35.0  # the contract's request timeout of 30 s, plus 5 s for the network
WAIT_MAX_SECONDS = 65.0  # the longest Retry-After that is honoured: a rate-limit window of one minute, and a margin
TRIES_MAX = 4
UNAVAILABLE_STATUSES = {502, 503, 504}  # the target, or the way to it, is temporarily unavailable
REPLICAS_REACHED = 8  # concurrent requests, each on its own connection, that should reach every replica
TIMEOUTS_MAX = 3  # consecutive timeouts of one endpoint, or of all, after which no more requests are sent to it
Item = TypeVar("Item")
Result = TypeVar("Result")
Headers = dict[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Upload:
    """An upload that was begun: its asset, its upload URL, and the bytes to send."""

    asset_id: str
    url: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class WaitBudget:
    """The total time that a run may spend waiting, and which endpoints have stopped responding. Thread-safe."""

    def __init__(self, wait_seconds: float) -> None:
        self.waited_seconds = 0.0
        self._wait_seconds = wait_seconds
        self._until = 0.0  # when the last of the current waits ends (monotonic clock)
        self._timeouts: Counter[str] = Counter()  # consecutive timeouts by endpoint; "" counts all endpoints together
        self._last_timeout: dict[str, float] = {}
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> bool:
        """Reserve a wait of `seconds`; return False if the budget does not cover it.

        Time in which another thread waits already is not charged again.
        """
        with self._lock:
            now = time.monotonic()
            more = max(now + seconds - max(now, self._until), 0.0)
            if self.waited_seconds + more > self._wait_seconds:
                return False
            self.waited_seconds += more
            self._until = max(now + seconds, self._until)
            return True

    def require_responsive(self, endpoint: str) -> None:
        """Raises Undecided: the endpoint timed out so often in a row that further requests are not worth the time."""
        with self._lock:
            timeouts = max(self._timeouts[endpoint], self._timeouts[""])
        if timeouts >= TIMEOUTS_MAX:
            raise Undecided(
                f"slow: not sent, because {timeouts} requests in a row timed out after {RESPONSE_SECONDS:.0f} s"
            )

    def responded(self, endpoint: str) -> None:
        with self._lock:
            self._timeouts[endpoint] = self._timeouts[""] = 0

    def timed_out(self, endpoint: str, began: float) -> None:
        """Count a request that timed out; requests that were in flight at the same time count once."""
        with self._lock:
            for name in (endpoint, ""):
                if began >= self._last_timeout.get(name, 0.0):
                    self._timeouts[name] += 1
                    self._last_timeout[name] = time.monotonic()


class Vault:
    """A running CDV at `url`."""

    def __init__(self, url: str, tokens: TokenSource, wait_seconds: float, trust: ssl.SSLContext) -> None:
        """`wait_seconds`: the wait budget of the whole run: it bounds a run whose target always asks to retry later."""
        self.url = url.rstrip("/")
        self.tokens = tokens
        self.trust = trust
        self.findings = Findings()
        self.down_since = 0.0
        self._wait_budget = WaitBudget(wait_seconds)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=2)
        transport = BoundedTransport(RESPONSE_SECONDS, limits=limits, verify=trust)
        self._http = httpx.Client(
            timeout=RESPONSE_SECONDS, transport=transport, trust_env=False, follow_redirects=False
        )

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        by: Creator | None = None,
        retry: bool = True,
        headers: Headers = (),
        content: bytes | Iterable[bytes] | None = None,
        body: Any = None,
        params: Any = None,
    ) -> httpx.Response:
        """Return the response. `by`: whose token to send. `body`: sent as JSON. `path`: a path of the target, or a URL.

        With `retry`, a request that is answered 429, 502, 503 or 504 is sent again after its Retry-After, at most
        TRIES_MAX times and within the wait budget. A create without idempotency key is not repeated after a 502, 503
        or 504: it may have been stored, and a retry would store it twice.
        Raises: Undecided: the target is slow or down. Nonconforming: it closed the connection without a response.
        """
        sent = [*(headers.items() if isinstance(headers, dict) else headers)]
        if by is not None:
            sent.append(("Authorization", f"Bearer {self.tokens.token(by.did)}"))
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None and not any(name.lower() == "content-type" for name, _ in sent) and method != "PUT":
            sent.append(("Content-Type", "application/json"))
        own = path.startswith(
            "/"
        )  # a URL that the target returned may lead to an object store, which no law applies to
        url = self.url + path if own else path
        if not isinstance(content, bytes | None):
            content = list(content)  # a retry sends it again
        for _ in range(TRIES_MAX):
            request = self._http.build_request(method, url, headers=sent, content=content, params=params)
            response = self._exchange(request, own)
            if not retry or response.status_code not in {429, *UNAVAILABLE_STATUSES}:
                return response
            if response.status_code in UNAVAILABLE_STATUSES and own and _is_unkeyed_create(request):
                raise Undecided(
                    f"status {response.status_code} to a create without idempotency key: it may have happened, "
                    "so it is not sent again"
                )
            self._wait(response)
        reason = "rate limited (429)" if response.status_code == 429 else f"unavailable ({response.status_code})"
        raise Undecided(f"{method} {path} is still {reason} after {TRIES_MAX} attempts")

    def _exchange(self, request: httpx.Request, own: bool) -> httpx.Response:
        endpoint = f"{request.method} {request.url.path.rpartition('/')[2]}" if own else request.url.host
        self._wait_budget.require_responsive(endpoint)
        began = time.monotonic()
        subject = self.tokens.subject(request.headers.get("authorization", ""))
        response: httpx.Response | None = None
        try:
            response = self._http.send(request)
            self._wait_budget.responded(endpoint)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.down_since = self.down_since or time.monotonic()
            raise Undecided(f"down: no connection to {request.url.host}:{request.url.port} ({error})") from error
        except httpx.TimeoutException as error:
            self._wait_budget.timed_out(endpoint, began)
            raise Undecided(
                f"slow: no response to {request.method} {request.url.path} in {RESPONSE_SECONDS:.0f} s"
            ) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            self._require_reachable()
            if self._succeeds_on_retry(request):
                raise Undecided(
                    f"the connection was lost ({error}); the same request succeeded when sent again"
                ) from error
            broken = error
        exchange = Exchange(
            request.method, str(request.url), request.headers.multi_items(), _sent_bytes(request), subject, response
        )
        RECORDER.add(exchange)
        if own:
            self.findings.judge(exchange)
        if response is None:
            raise Nonconforming("ERR-005", f"the connection was closed without a response: {broken}")
        return response

    def _succeeds_on_retry(self, request: httpx.Request) -> bool:
        """Send the request again: a connection lost once may be the network's fault; lost twice, it is the target's."""
        try:
            self._http.send(request)
        except httpx.HTTPError:
            return False
        return True

    def revive(self) -> None:
        """Forget that the target was down if it responds again. Raises Undecided: it is still down."""
        self._require_reachable()
        self.down_since = 0.0

    def _require_reachable(self) -> None:
        """Raises Undecided: the target is down."""
        try:
            self._http.get(f"{self.url}/healthz")
        except httpx.HTTPError as error:
            self.down_since = self.down_since or time.monotonic()
            raise Undecided(f"down: {self.url}/healthz does not respond ({error})") from error

    def _wait(self, response: httpx.Response) -> None:
        retry_after = response.headers.get("retry-after", "1")
        seconds = max(float(retry_after), 0.2) if retry_after.isdecimal() else 1.0
        if seconds > WAIT_MAX_SECONDS or not self._wait_budget.spend(seconds):
            waited = f"this run has waited {self._wait_budget.waited_seconds:.0f} s already"
            raise Undecided(
                f"status {response.status_code} with Retry-After {retry_after} s, which is too long to wait: {waited}"
            )
        time.sleep(seconds)

    def creator(self, did: str = "") -> Creator:
        """Return a creator who has never written before, or the owner of `did`."""
        return Creator(self, did or self.tokens.new_did())

    def known(self, role: str) -> Creator:
        """Return a creator who may have written before and is shared by no other role."""
        return Creator(self, self.tokens.known_did(role))

    @property
    def minter(self) -> KeyTokens | None:
        """The source that signs tokens with a trusted issuer's key; None if this run has no such key."""
        return self.tokens if isinstance(self.tokens, KeyTokens) else None

    def get(self, uri: str, by: Creator | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("GET", RECORD, params={"uri": uri}, by=by, headers=named)


@dataclass(frozen=True)
class Creator:
    """A client that sends the token of one DID."""

    vault: Vault
    did: str

    def body(self, **members: Any) -> dict[str, Any]:
        """Return the body of a valid create, with changes; a member given as ... is left out."""
        good = {"collection": PROFILE, "did": self.did, "record": {"displayName": "Ada"}}
        return {name: value for name, value in {**good, **members}.items() if value is not ...}

    def create(self, headers: Headers = (), **members: Any) -> httpx.Response:
        return self.vault.send("POST", RECORD, by=self, headers=headers, body=self.body(**members))

    def created(self, **members: Any) -> dict[str, Any]:
        """Create a record that must be accepted; return its receipt."""
        return receipt_of(self.create(**members))

    def get(self, uri: str, **headers: str) -> httpx.Response:
        return self.vault.get(uri, self, **headers)

    def listing(self, **parameters: Any) -> httpx.Response:
        return self.vault.send("GET", LIST, by=self, params={"did": self.did, **parameters})

    def listed(self, **parameters: Any) -> list[dict[str, Any]]:
        """Read all pages; return the records."""
        records: list[dict[str, Any]] = []
        page = data(self.listing(limit=100, **parameters))
        records += page["records"]
        while "nextCursor" in page:
            page = data(self.listing(limit=100, cursor=page["nextCursor"], **parameters))
            records += page["records"]
        return records

    def init(self, content: bytes = PNG, **members: Any) -> httpx.Response:
        good = {"did": self.did, "mimeType": "image/png", "size": len(content)}
        body = {name: value for name, value in {**good, **members}.items() if value is not ...}
        return self.vault.send("POST", INIT, by=self, body=body)

    def upload(self, content: bytes = PNG, **members: Any) -> Upload:
        """Initialise an upload without sending the bytes."""
        ticket = data(self.init(content, **members))
        return Upload(ticket["assetId"], ticket["uploadUrl"], content)

    def put(self, upload: Upload, content: bytes | None = None) -> httpx.Response:
        return self.vault.send("PUT", upload.url, content=upload.content if content is None else content)

    def staged(self, content: bytes = PNG, **members: Any) -> Upload:
        """Initialise an upload and send the bytes, which the upload URL must accept."""
        upload = self.upload(content, **members)
        response = self.put(upload)
        assert response.is_success, f"the upload URL answers a plain PUT with {response.status_code}"
        return upload

    def finalize(self, asset_id: str, sha256: str) -> httpx.Response:
        return self.vault.send("POST", FINALIZE, by=self, body={"assetId": asset_id, "sha256": sha256})

    def finalized(self, content: bytes = PNG, **members: Any) -> dict[str, Any]:
        """Upload and finalise an asset; return it."""
        upload = self.staged(content, **members)
        return data(self.finalize(upload.asset_id, upload.sha256))

    def meta(self, asset_id: str) -> httpx.Response:
        return self.vault.send("GET", f"/v1/media/{asset_id}/meta", by=self)

    def content(self, asset_id: str) -> httpx.Response:
        """Return the response with the bytes, after following one redirect, or the error response."""
        response = self.vault.send("GET", f"/v1/media/{asset_id}/content", by=self)
        if response.status_code != 307:
            return response
        return self.vault.send("GET", str(httpx.URL(str(response.url)).join(response.headers["location"])))


def data(response: httpx.Response) -> dict[str, Any]:
    """Return `data` of a successful response. Raises AssertionError: it is not a 200 with an object there."""
    assert response.status_code == 200, f"expected 200, got {_shown(response)}"
    body = json_of(response)
    assert isinstance(body, dict), f"the response is not a JSON object: {response.text[:200]!r}"
    found = body.get("data")
    assert isinstance(found, dict), f"the response has no object `data`: {response.text[:200]!r}"
    return found


def receipt_of(response: httpx.Response) -> dict[str, Any]:
    """Return the members of a create's data that the contract names. Whether there are others is judged by REC-002."""
    found = data(response)
    return {name: found[name] for name in RECEIPT if name in found}


def expect_error(response: httpx.Response, status: int, *codes: str) -> dict[str, Any]:
    """Return `error` of an error response, which must have that status and, if any are given, one of the codes."""
    expected = f"{status} {' or '.join(codes)}".rstrip()
    assert response.status_code == status, f"expected {expected}, got {_shown(response)}"
    body = json_of(response)
    code = code_of(body)
    assert not codes or code in codes, f"expected {expected}, got {_shown(response)}"
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def new_key() -> str:
    """Return an idempotency key that was never used."""
    return f"key-{secrets.token_hex(8)}"


def concurrently(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call for every item at the same moment, each in its own thread; return the results in the order of the items."""
    waiting = list(items)
    start = threading.Barrier(len(waiting))

    def run(item: Item) -> Result:
        start.wait()
        return call(item)

    with ThreadPoolExecutor(len(waiting)) as threads:
        return list(threads.map(run, waiting))


def on_every_replica(call: Callable[[], object]) -> None:
    """Call so often and so concurrently that every replica behind the address should have been reached."""
    for _ in range(2):
        concurrently(lambda _: call(), range(REPLICAS_REACHED))


def json_of(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _shown(response: httpx.Response) -> str:
    return f"{response.status_code} {code_of(json_of(response)) or ''} {response.text[:300]}"


def _is_unkeyed_create(request: httpx.Request) -> bool:
    """Return whether the request creates another record each time it is sent."""
    if request.method != "POST" or not request.url.path.endswith(RECORD) or "idempotency-key" in request.headers:
        return False
    return b'"idempotencyKey"' not in _sent_bytes(request)


def _sent_bytes(request: httpx.Request) -> bytes:
    try:
        return request.content
    except httpx.RequestNotRead:
        return b"(streamed)"
