"""Endless and very long responses do not stop a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from conformance.http import transport
from conformance.http.exchanges import Exchange
from conformance.http.laws import no_stack_trace
from conformance.http.requirements import Undecided
from conformance.http.transport import BoundedTransport


class Endless(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b" " * 1000


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda *_: httpx.Response(200, stream=Endless()))


def test_an_endless_response_times_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport, "RESPONSE_MAX_BYTES", 10**18)
    with httpx.Client(transport=BoundedTransport(0.05)) as client, pytest.raises(httpx.ReadTimeout):
        client.get("http://target")


def test_an_endless_response_ends_at_the_size_limit():
    with httpx.Client(transport=BoundedTransport(3600)) as client, pytest.raises(Undecided, match="67108864 bytes"):
        client.get("http://target")


def test_a_long_error_response_is_searched_for_stack_traces_in_linear_time():
    """Every line break could begin a stack trace, so that a naive search is quadratic."""
    refusal = Exchange("GET", "http://target/v1/x", [], b"", "", httpx.Response(400, text="\n" * 200_000))
    began = time.monotonic()

    assert no_stack_trace(refusal, None) is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        'Traceback (most recent call last):\n  File "/app/x.py", line 5',
        json.dumps('  File "/app/x.py", line 5, in f'),
        "Error: no\n    at Object.run (/app/x.js:5:1)\n    at Module.load(x)",
        "goroutine 1 [running]:",
    ],
)
def test_a_stack_trace_is_detected(text: str):
    assert no_stack_trace(Exchange("GET", "http://target/v1/x", [], b"", "", httpx.Response(400, text=text)), None)
