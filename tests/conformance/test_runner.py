"""The runner: verdicts for targets that work, fail, are busy or down, and messages for wrong command lines."""

from __future__ import annotations

import re
import shlex
import signal
import ssl
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from conformance.http.cli import _TOKEN_PROBE_PATH as TOKEN_PROBE_PATH
from conformance.http.cli import _ahead_seconds
from conformance.http.event_log import NoEvents, try_connection
from conformance.http.requirements import requirements
from tests.conformance.defects_model import ROOT
from tests.conformance.judging import finished, judge, started
from tests.conformance.stub import Answer, refusal, serving
from tests.http.certificates import Files, files
from tests.http.running import RunningVault
from tests.servers.process import free_port

PRINTS_A_TOKEN = shlex.join([sys.executable, "-c", "print('e30.e30.e30')"])
MINT = """
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from conformance.http.tokens import Key, KeyTokens

with open({asked!r}, "a", encoding="utf-8") as asked:
    asked.write("x")
print(KeyTokens(Key.read(Path({key!r})), issuer="urn:cdv:local-issuer", audience="cdv").mint(sys.argv[1]))
"""
TOKENS_FEW = 75  # at a second each, with two commands in parallel: well under a minute
TOKENS = ("--token-command", PRINTS_A_TOKEN)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    running = RunningVault(tmp_path_factory.mktemp("judged") / "vault")
    yield running
    running.stop()


def test_an_unreachable_target_is_undecided(tmp_path: Path):
    judgement = judge(tmp_path, f"http://127.0.0.1:{free_port()}", *TOKENS, "--wait", "0")

    assert judgement.code == 3
    assert "does not answer" in judgement.text


@pytest.mark.parametrize("status", [429, 503])
def test_a_target_that_always_responds_429_or_503_is_undecided(tmp_path: Path, status: int):
    code = {429: "CDV_RATE_LIMIT", 503: "CDV_UNAVAILABLE"}[status]
    with serving(lambda *_: refusal(status, code, Retry_After="3600")) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-001", "--only", "LIST-001", "--only", "IDEM-012")

    assert judgement.code == 3, judgement.text
    assert judgement.ids("failed") == set()
    assert {"REC-001", "LIST-001", "IDEM-012"} <= judgement.ids("undecided")
    assert f"status {status}" in judgement.verdict("REC-001")["detail"]


def test_a_request_refused_with_429_is_retried(tmp_path: Path):
    received: dict[str, int] = {}

    def answer(_: str, path: str, __: bytes) -> Answer:
        received[path] = received.get(path, 0) + 1
        if received[path] == 1:
            return refusal(429, "CDV_RATE_LIMIT", Retry_After="0")
        return refusal(404, "CDV_NOT_FOUND")

    with serving(answer) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")

    assert judgement.verdict("REC-011")["verdict"] == "passed", judgement.text
    assert judgement.code == 0


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxys_response_for_an_unavailable_target_is_not_judged(tmp_path: Path, status: int):
    statuses: list[int] = []

    def answer(*_: object) -> Answer:
        statuses.append(status)
        return refusal(404, "CDV_NOT_FOUND") if len(statuses) % 2 == 0 else (status, {"Retry-After": "0"}, "away")

    with serving(answer) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")

    assert len(statuses) > 2
    assert judgement.ids("failed") == set(), judgement.text
    assert judgement.verdict("REC-011")["verdict"] == "passed"


def test_a_503_of_the_service_itself_is_judged(tmp_path: Path):
    with serving(lambda *_: (503, {"X-Correlation-Id": "c-1"}, {})) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")

    assert {"ERR-001", "ERR-008"} <= judgement.ids("failed"), judgement.text


def test_a_run_begins_when_the_proxy_no_longer_responds_502(tmp_path: Path):
    with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
        away: Iterator[Answer] = iter([(502, {}, "away")] * 3)
        stub.health = lambda: next(away, (200, {}, {}))
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")
        assert next(away, None) is None, "the run began while the target was away"
        assert judgement.code == 0, judgement.text

        stub.health = lambda: (502, {}, "away")
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011", "--wait", "0")
        assert judgement.code == 3
        assert "does not answer, so nothing was tested: status 502" in judgement.text


def test_a_law_that_applies_to_no_response_of_the_run_is_not_judged(tmp_path: Path):
    with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")

    assert judgement.ids("passed") == {"REC-011", *("ERR-001", "ERR-002", "ERR-003", "ERR-005", "ERR-006", "OPS-001")}
    assert {"ERR-004", "ERR-007", "ERR-008", "AUTH-023"} <= judgement.ids("not judged")
    assert judgement.verdict("ERR-008")["detail"] == "it applies to none of the responses of this run"


def test_a_failed_requirement_is_reported_with_details_and_a_curl_command(tmp_path: Path):
    with serving(lambda *_: (404, {"X-Correlation-Id": "c-1"}, {"oops": 1})) as stub:
        files = ("--html", str(tmp_path / "r.html"), "--junit", str(tmp_path / "r.xml"))
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "LIST-013", *files)

    assert judgement.code == 1
    assert {"LIST-013", "ERR-001"} <= judgement.ids("failed")
    failed = judgement.verdict("LIST-013")
    assert "expected 200, got 404" in failed["detail"]
    assert re.search(
        rf"curl -sS -i -X GET '{stub.url}/v1/repo/listRecords\?did=did%3Aexample%3A\w+' -H .*\$TOKEN", failed["script"]
    )
    assert "e30.e30.e30" not in judgement.text
    assert "LIST-013" in judgement.text
    cases = ET.parse(tmp_path / "r.xml").getroot()
    assert len(cases) == len(requirements())
    assert cases.get("failures") == str(len(judgement.ids("failed")))


def test_hostile_text_in_a_response_is_escaped_in_every_report(tmp_path: Path):
    hostile = "\ud800 \uffff \x1b[2J \x9b2J \x00 <script>alert(1)</script> ]]> &"
    with serving(lambda *_: refusal(404, hostile)) as stub:
        files = ("--html", str(tmp_path / "r.html"), "--junit", str(tmp_path / "r.xml"))
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011", *files)

    shown = "\ufffd \ufffd \ufffd[2J \ufffd2J \ufffd <script>alert(1)</script> ]]> &"
    assert judgement.code == 1, judgement.text
    assert not {"\x1b", "\x9b"} & {*judgement.text}
    assert shown in judgement.verdict("ERR-002")["detail"]
    assert any(shown in failure.get("message", "") for failure in ET.parse(tmp_path / "r.xml").iter("failure"))
    assert "<script>" not in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("times", "verdict", "code"), [(1, "undecided", 3), (10**6, "failed", 1)])
def test_a_connection_that_breaks_once_is_undecided_and_one_that_always_breaks_fails(
    tmp_path: Path, times: int, verdict: str, code: int
):
    broken: list[str] = []

    def answer(_: str, path: str, __: bytes) -> Answer:
        if len(broken) < times and "/repo/" in path:  # a request of a test, not one sent before the run
            broken.append(path)
            raise ConnectionAbortedError
        return refusal(404, "CDV_NOT_FOUND")

    with serving(answer) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011")

    assert judgement.verdict("ERR-005" if verdict == "failed" else "REC-011")["verdict"] == verdict, judgement.text
    assert judgement.code == code


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Restore the default handler: a background process of a script ignores SIGINT, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_is_undecided(tmp_path: Path):
    received: list[str] = []

    def answer(_: str, path: str, __: bytes) -> Answer:
        received.append(path)
        if len(received) == 3:
            running.send_signal(signal.SIGINT)
        return refusal(404, "CDV_NOT_FOUND")

    with serving(answer) as stub:
        running = started(tmp_path, stub.url, *TOKENS, "--only", "REC-011", "--only", "LIST-013")
        judgement = finished(running, tmp_path)

    assert judgement.ids("undecided") == {"REC-011", "LIST-013"}, judgement.text
    assert judgement.code == 3


def test_an_object_store_at_the_targets_address_needs_no_correlation_id(tmp_path: Path):
    def answer(method: str, path: str, _: bytes) -> Answer:
        if method == "PUT":
            return 200, {}, {}
        if path.endswith("uploadInit"):
            ticket = {"assetId": "a", "uploadUrl": f"{stub.url}/store/a", "expiresAt": "2999-01-01T00:00:00.000000Z"}
            return 200, {"X-Correlation-Id": "c-1"}, {"data": ticket}
        return refusal(409, "CDV_CONFLICT")

    with serving(answer) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "MEDIA-006")

    assert ("PUT", "/store/a") in {(method, path) for method, path, _ in stub.requests}
    assert judgement.verdict("OPS-001")["verdict"] == "passed", judgement.text


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        ({"up": True, "critical": True}, "passed"),
        ({"name": "database", "status": "UP", "critical": True}, "passed"),
        ({"name": "database", "critical": True}, "failed"),
        ({"name": "database", "status": "up"}, "failed"),
    ],
)
def test_readiness_may_name_the_members_of_a_dependency_differently(
    tmp_path: Path, state: dict[str, object], verdict: str
):
    with serving(lambda *_: (200, {"X-Correlation-Id": "c-1"}, {"dependencies": [state]})) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "OPS-005")

    assert judgement.verdict("OPS-005")["verdict"] == verdict, judgement.text


@pytest.mark.parametrize(("counted", "verdict"), [(True, "passed"), (False, "failed")])
def test_a_rate_limit_may_refill_faster_than_one_client_sends_requests(tmp_path: Path, counted: bool, verdict: str):
    bucket = {"left": 600.0, "at": time.monotonic()}
    lock = threading.Lock()

    def answer(method: str, *_: object) -> Answer:
        time.sleep(0.05)  # the time of a request, in which more than one token of the bucket is refilled
        with lock:
            now = time.monotonic()
            bucket["left"] = min(600.0, bucket["left"] + (now - bucket["at"]) * 50) - 1
            bucket["at"] = now
            left = str(int(bucket["left"])) if counted else "599"
        found: Answer = 200, {}, {"data": {"uri": "at://did:example:ada/com.registryaccord.profile/1"}}
        status, headers, body = found if method == "POST" else refusal(404, "CDV_NOT_FOUND")
        limits = {"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": left, "X-RateLimit-Reset": "1"}
        return status, {**headers, **limits}, body

    with serving(answer) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "LIMIT-002")

    assert judgement.verdict("LIMIT-002")["verdict"] == verdict, judgement.text


@contextmanager
def serving_without_the_body(trusted: Files, scheme: str, headers: str) -> Iterator[str]:
    """Serve a target that answers 200 as soon as it has read the head, whatever its Content-Length."""
    body = b'{"data":{"uri":"at://x"}}'
    response = f"HTTP/1.1 200 OK\r\n{headers}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(response)
            with suppress(OSError):
                self.connection.settimeout(1)  # for bytes that are still in transit
                self.rfile.read(1000)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if scheme == "https":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(trusted.cert, trusted.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("scheme", "headers", "verdict"),
    [
        ("http", "X-Correlation-Id: c-1\r\n", "failed"),
        ("https", "X-Correlation-Id: c-1\r\n", "failed"),
        ("http", "Server: a proxy, whose client is gone\r\n", "passed"),
    ],
)
def test_a_200_to_an_incomplete_body_fails_unless_a_proxy_sent_it(
    tmp_path: Path, scheme: str, headers: str, verdict: str
):
    trusted = files(tmp_path)
    trusted.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with serving_without_the_body(trusted, scheme, headers) as url:
        judgement = judge(tmp_path, url, *TOKENS, "--only", "LIMIT-007", "--ca", str(tmp_path / "ca.pem"))

    assert judgement.verdict("LIMIT-007")["verdict"] == verdict, judgement.text


def test_the_option_min_lowers_the_score_that_a_run_needs(tmp_path: Path):
    with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
        assert judge(tmp_path, stub.url, *TOKENS, "--only", "LIST-013", "--min", "50").code == 0
        assert judge(tmp_path, stub.url, *TOKENS, "--only", "LIST-013", "--min", "99").code == 1


@pytest.mark.parametrize("ci", ["", "true"])  # Hypothesis is deterministic by default where CI is set
def test_the_same_seed_repeats_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str):
    monkeypatch.setenv("CI", ci) if ci else monkeypatch.delenv("CI", raising=False)
    received = []
    for seed in ("1", "1", "2"):
        with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
            judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "REC-011", "--seed", seed)
            assert f"seed {seed}" in judgement.text
            received.append([re.sub(r"example%3A\w+", "DID", path) for _, path, _ in stub.requests])

    assert received[0] == received[1]
    assert received[0] != received[2]


def test_requirements_that_need_a_key_are_not_judged_without_one(tmp_path: Path, vault: RunningVault):
    token = vault.token("did:example:someone")
    command = shlex.join([sys.executable, "-c", f"print({token!r})"])

    judgement = judge(tmp_path, vault.base, "--token-command", command, "--only", "AUTH-0")

    assert {"AUTH-009", "AUTH-012", "AUTH-015"} <= judgement.ids("not judged")
    assert "needs --issuer-key or --own-issuer" in judgement.verdict("AUTH-009")["detail"]
    assert {"AUTH-002", "AUTH-004", "AUTH-006"} <= judgement.ids("passed"), judgement.text


def test_the_quick_profile_runs_the_token_command_a_limited_number_of_times(tmp_path: Path, vault: RunningVault):
    calls = tmp_path / "asked"
    script = tmp_path / "mint.py"
    script.write_text(
        MINT.format(root=str(ROOT), key=str(vault.data_dir / "issuer-key.json"), asked=str(calls)), encoding="utf-8"
    )
    command = f"{shlex.join([sys.executable, str(script)])} {{did}}"

    judgement = judge(tmp_path, vault.base, "--token-command", command)

    assert judgement.code == 0, judgement.text
    assert judgement.ids("undecided") == set(), judgement.text
    assert len(calls.read_text(encoding="utf-8")) <= TOKENS_FEW


def test_the_html_report_is_self_contained_and_lists_every_requirement(tmp_path: Path, vault: RunningVault):
    page = tmp_path / "report.html"
    key = str(vault.data_dir / "issuer-key.json")
    judgement = judge(tmp_path, vault.base, "--issuer-key", key, "--only", "LIST-00", "--html", str(page))
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(f"{tag} {name}" for name, _ in attrs if name in {"src", "href"})

    Reader().feed(page.read_text(encoding="utf-8"))

    assert judgement.code == 0, judgement.text
    assert found == []
    for name in requirements():
        assert name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--issuer-key", "/nowhere"),
        ("--own-issuer", "0", "--token-command", "x"),
        ("--token-command", "/nowhere {did}"),
        ("--token-command", ""),
        ("--token-command", "echo 'never closed"),
        ("--token-command", "true"),
        ("--token-command", "echo not a token"),
        ("--token-command", r"printf '\377'"),
        ("--own-issuer", "99999"),
        ("--own-issuer", "0", "--catalogue", "-1"),
        ("--own-issuer", "0", "--html", "/nowhere/report.html"),
        ("--own-issuer", "0", "--ca", "/nowhere/ca.pem"),
        ("--own-issuer", "0", "--ca", __file__),
        ("--own-issuer", "0", "--url", "http://"),
        ("--own-issuer", "0", "--url", "http://[::1"),
    ],
)
def test_an_invalid_command_line_exits_with_2(tmp_path: Path, vault: RunningVault, options: tuple[str, ...]):
    judgement = judge(tmp_path, vault.base, *options, "--only", "REC-008")

    assert judgement.code == 2, judgement.text
    assert "Traceback" not in judgement.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--only", "ERR-001"),
            "ERR-001 is checked on every response of any run and has no test of its own: run without --only ERR-001",
        ),
        (("--only", "media"), "similar: MEDIA"),
        (("--only", "REC", "--only", "LIST-070"), "similar: LIST-0"),
        (("--only", "REC-001", "--nats", "nats://127.0.0.1:1"), "no connection to nats://127.0.0.1:1"),
    ],
)
def test_options_by_which_nothing_can_be_judged_are_refused_before_the_run(
    tmp_path: Path, options: tuple[str, ...], message: str
):
    with serving(lambda *_: refusal(404, "CDV_NOT_FOUND")) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, *options)

    assert judgement.code == 2, judgement.text
    assert message in judgement.text
    assert "Traceback" not in judgement.text
    assert not judgement.report
    assert {path for _, path, _ in stub.requests} <= {TOKEN_PROBE_PATH}, "the run had begun"


def test_a_missing_nats_py_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nats", None)

    with pytest.raises(NoEvents, match="nats-py, which is not installed"):
        try_connection("nats://127.0.0.1:4222")


def test_the_pem_key_of_another_issuer_is_read_and_refused_by_the_target(tmp_path: Path, vault: RunningVault):
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)

    judgement = judge(tmp_path, vault.base, "--issuer-key", str(tmp_path / "key.pem"), "--only", "REC-008")

    assert judgement.verdict("REC-008")["verdict"] == "failed"  # another issuer's key
    assert "CDV_JWT_INVALID" in judgement.text
    assert "the target refuses our tokens" in judgement.text  # only the user can know which side is wrong


@pytest.mark.parametrize("date", [None, "", "soon", "Thu, 99 Jan 2026 00:00:00 GMT"])
def test_a_missing_or_invalid_date_header_implies_no_clock_difference(date: str | None):
    assert _ahead_seconds(httpx.Response(200, headers={} if date is None else {"Date": date})) == 0
