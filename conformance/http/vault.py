"""The target, and creators who speak to it. Every exchange is recorded and put to the laws."""

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

ANSWER_SECONDS = 35.0  # the contract's request timeout of 30 s, and the way there and back
WAIT_MAX_SECONDS = 65.0  # for one answer: a window of a minute and its edges
TRIES_MAX = 4
AWAY = {502, 503, 504}  # what says that the target is not there, or not now
REPLICAS_REACHED = 8  # by as many requests at once, each on a connection of its own
SLOW_MAX = 3  # times in a row that an endpoint, or all of them, did not answer: then it is no longer waited for
Item = TypeVar("Item")
Result = TypeVar("Result")
Headers = dict[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Upload:
    """What a test wants to know of an upload."""

    asset_id: str
    url: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Patience:
    """How long a run has waited in all, and who no longer answers. Many threads may wait at once."""

    def __init__(self, wait_seconds: float) -> None:
        self.waited_seconds = 0.0
        self._wait_seconds = wait_seconds
        self._until = 0.0  # by when everybody who waits will have waited
        self._slow: Counter[str] = Counter()  # by endpoint, and "" for all of them
        self._gave_up: dict[str, float] = {}
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> bool:
        """Take the seconds from what is left, but for those in which somebody waits already; False: too little is."""
        with self._lock:
            now = time.monotonic()
            more = max(now + seconds - max(now, self._until), 0.0)
            if self.waited_seconds + more > self._wait_seconds:
                return False
            self.waited_seconds += more
            self._until = max(now + seconds, self._until)
            return True

    def ask(self, endpoint: str) -> None:
        """Raises Undecided: it was not answered so often that it is not worth the time."""
        with self._lock:
            times = max(self._slow[endpoint], self._slow[""])
        if times >= SLOW_MAX:
            raise Undecided(f"slow: {times} times in a row there was no answer in {ANSWER_SECONDS:.0f} s")

    def answered(self, endpoint: str) -> None:
        with self._lock:
            self._slow[endpoint] = self._slow[""] = 0

    def gave_up(self, endpoint: str, began: float) -> None:
        """Count a request without an answer; those that were under way together count once."""
        with self._lock:
            for name in (endpoint, ""):
                if began >= self._gave_up.get(name, 0.0):
                    self._slow[name] += 1
                    self._gave_up[name] = time.monotonic()


class Vault:
    """A running CDV at `url`."""

    def __init__(self, url: str, tokens: TokenSource, wait_seconds: float, trust: ssl.SSLContext) -> None:
        """Wait `wait_seconds` in all: a target that always says "later" is undecided, and soon."""
        self.url = url.rstrip("/")
        self.tokens = tokens
        self.trust = trust
        self.findings = Findings()
        self.down_since = 0.0
        self._patience = Patience(wait_seconds)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=2)
        transport = BoundedTransport(ANSWER_SECONDS, limits=limits, verify=trust)
        self._http = httpx.Client(timeout=ANSWER_SECONDS, transport=transport, trust_env=False, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        by: Creator | None = None,
        patient: bool = True,
        headers: Headers = (),
        content: bytes | Iterable[bytes] | None = None,
        body: Any = None,
        params: Any = None,
    ) -> httpx.Response:
        """Return the answer. `by`: whose token to send. `body`: sent as JSON. `path`: or a whole URL.

        A spent budget is waited for and an unavailable service asked again, within bounds, unless not `patient`. What
        may have happened and would happen twice is not asked again: a record without an idempotency key.
        Raises: Undecided: slow or down. Nonconforming: the connection was closed without an answer.
        """
        sent = [*(headers.items() if isinstance(headers, dict) else headers)]
        if by is not None:
            sent.append(("Authorization", f"Bearer {self.tokens.token(by.did)}"))
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None and not any(name.lower() == "content-type" for name, _ in sent) and method != "PUT":
            sent.append(("Content-Type", "application/json"))
        own = path.startswith("/")  # a URL that was handed out may be a store's, whose answers are no service's
        url = self.url + path if own else path
        if not isinstance(content, bytes | None):
            content = list(content)  # it may have to be sent again
        for _ in range(TRIES_MAX):
            request = self._http.build_request(method, url, headers=sent, content=content, params=params)
            answer = self._exchange(request, own)
            if not patient or answer.status_code not in {429, *AWAY}:
                return answer
            if answer.status_code in AWAY and own and _creates_anew(request):
                raise Undecided(f"status {answer.status_code}: a write without a key, which may have happened")
            self._wait(answer)
        reason = "the rate limit" if answer.status_code == 429 else f"unavailable ({answer.status_code})"
        raise Undecided(f"{reason}: {method} {path}")

    def _exchange(self, request: httpx.Request, own: bool) -> httpx.Response:
        endpoint = f"{request.method} {request.url.path.rpartition('/')[2]}" if own else request.url.host
        self._patience.ask(endpoint)
        began = time.monotonic()
        speaker = self.tokens.speaker(request.headers.get("authorization", ""))
        answer: httpx.Response | None = None
        try:
            answer = self._http.send(request)
            self._patience.answered(endpoint)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.down_since = self.down_since or time.monotonic()
            raise Undecided(f"down: no connection to {request.url.host}:{request.url.port} ({error})") from error
        except httpx.TimeoutException as error:
            self._patience.gave_up(endpoint, began)
            raise Undecided(
                f"slow: no answer to {request.method} {request.url.path} in {ANSWER_SECONDS:.0f} s"
            ) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            self._must_be_up()
            if self._is_answered(request):
                raise Undecided(f"a connection broke, and the same request was answered then: {error}") from error
            broken = error
        exchange = Exchange(
            request.method, str(request.url), request.headers.multi_items(), _sent_bytes(request), speaker, answer
        )
        RECORDER.add(exchange)
        if own:
            self.findings.judge(exchange)
        if answer is None:
            raise Nonconforming("ERR-005", f"the connection was closed without an answer: {broken}")
        return answer

    def _is_answered(self, request: httpx.Request) -> bool:
        """Ask once more, alone: what breaks once may be the network's doing, what breaks again is not."""
        try:
            self._http.send(request)
        except httpx.HTTPError:
            return False
        return True

    def revive(self) -> None:
        """Go on with a target that was down. Raises Undecided: it still is."""
        self._must_be_up()
        self.down_since = 0.0

    def _must_be_up(self) -> None:
        """Raises Undecided: the target is down."""
        try:
            self._http.get(f"{self.url}/healthz")
        except httpx.HTTPError as error:
            self.down_since = self.down_since or time.monotonic()
            raise Undecided(f"down: {error}") from error

    def _wait(self, answer: httpx.Response) -> None:
        asked = answer.headers.get("retry-after", "1")
        seconds = max(float(asked), 0.2) if asked.isdecimal() else 1.0
        if seconds > WAIT_MAX_SECONDS or not self._patience.spend(seconds):
            waited = f"after {self._patience.waited_seconds:.0f} s of waiting in this run"
            raise Undecided(f"status {answer.status_code}, to come again in {asked} s, {waited}")
        time.sleep(seconds)

    def creator(self, did: str = "") -> Creator:
        """Return someone who has never written before, or who owns `did`."""
        return Creator(self, did or self.tokens.new_did())

    def known(self, role: str) -> Creator:
        """Return someone who may have written before, and is nobody of another role."""
        return Creator(self, self.tokens.known_did(role))

    @property
    def minter(self) -> KeyTokens | None:
        """The key of a trusted issuer, if this run has one."""
        return self.tokens if isinstance(self.tokens, KeyTokens) else None

    def get(self, uri: str, by: Creator | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("GET", RECORD, params={"uri": uri}, by=by, headers=named)


@dataclass(frozen=True)
class Creator:
    """The bearer of a DID's token."""

    vault: Vault
    did: str

    def body(self, **members: Any) -> dict[str, Any]:
        """Return a good create's body; a member given as ... is left out."""
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
        """Walk all pages; return the records."""
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
        """Init an upload, without sending the bytes."""
        ticket = data(self.init(content, **members))
        return Upload(ticket["assetId"], ticket["uploadUrl"], content)

    def put(self, upload: Upload, content: bytes | None = None) -> httpx.Response:
        return self.vault.send("PUT", upload.url, content=upload.content if content is None else content)

    def staged(self, content: bytes = PNG, **members: Any) -> Upload:
        """Init an upload and send the bytes, which must be taken."""
        upload = self.upload(content, **members)
        answer = self.put(upload)
        assert answer.is_success, f"the upload URL answers {answer.status_code} to a plain PUT"
        return upload

    def finalize(self, asset_id: str, sha256: str) -> httpx.Response:
        return self.vault.send("POST", FINALIZE, by=self, body={"assetId": asset_id, "sha256": sha256})

    def finalized(self, content: bytes = PNG, **members: Any) -> dict[str, Any]:
        """Bring an asset all the way to permanent; return it."""
        upload = self.staged(content, **members)
        return data(self.finalize(upload.asset_id, upload.sha256))

    def meta(self, asset_id: str) -> httpx.Response:
        return self.vault.send("GET", f"/v1/media/{asset_id}/meta", by=self)

    def content(self, asset_id: str) -> httpx.Response:
        """Return the answer that bears the bytes, or the refusal."""
        answer = self.vault.send("GET", f"/v1/media/{asset_id}/content", by=self)
        if answer.status_code != 307:
            return answer
        return self.vault.send("GET", str(httpx.URL(str(answer.url)).join(answer.headers["location"])))


def data(answer: httpx.Response) -> dict[str, Any]:
    """Return a success's data."""
    assert answer.status_code == 200, f"expected 200, got {_shown(answer)}"
    body = json_of(answer)
    assert isinstance(body, dict), f"no JSON object: {answer.text[:200]!r}"
    found = body.get("data")
    assert isinstance(found, dict), f"no data in {answer.text[:200]!r}"
    return found


def receipt_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the members of a create's data that the contract names: what else is there is REC-002's to judge."""
    found = data(answer)
    return {name: found[name] for name in RECEIPT if name in found}


def refused(answer: httpx.Response, status: int, *codes: str) -> dict[str, Any]:
    """Return a refusal's error: of that status, and with one of the codes if any are named."""
    expected = f"{status} {' or '.join(codes)}".rstrip()
    assert answer.status_code == status, f"expected {expected}, got {_shown(answer)}"
    body = json_of(answer)
    code = code_of(body)
    assert not codes or code in codes, f"expected {expected}, got {_shown(answer)}"
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def new_key() -> str:
    """Return an idempotency key that nobody has used."""
    return f"key-{secrets.token_hex(8)}"


def at_once(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Make the call for every item at the same moment, each in a thread of its own; return the results in order."""
    waiting = list(items)
    start = threading.Barrier(len(waiting))

    def run(item: Item) -> Result:
        start.wait()
        return call(item)

    with ThreadPoolExecutor(len(waiting)) as threads:
        return list(threads.map(run, waiting))


def everywhere(call: Callable[[], object]) -> None:
    """Make the call so often, and so many at once, that it reaches every replica there may be behind the address."""
    for _ in range(2):
        at_once(lambda _: call(), range(REPLICAS_REACHED))


def json_of(answer: httpx.Response) -> Any:
    try:
        return json.loads(answer.content)
    except ValueError:
        return None


def _shown(answer: httpx.Response) -> str:
    return f"{answer.status_code} {code_of(json_of(answer)) or ''} {answer.text[:300]}"


def _creates_anew(request: httpx.Request) -> bool:
    """Tell whether a request makes a record each time that it is sent."""
    if request.method != "POST" or not request.url.path.endswith(RECORD) or "idempotency-key" in request.headers:
        return False
    return b'"idempotencyKey"' not in _sent_bytes(request)


def _sent_bytes(request: httpx.Request) -> bytes:
    try:
        return request.content
    except httpx.RequestNotRead:
        return b"(streamed)"
