"""The API reference in a real browser that can reach only 127.0.0.1 (spec: endpoints, docs)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdv_http.error_responses import STATUS_OF_CODE
from cdv_http.openapi import openapi_document
from tests.browser.chromium import CHROMIUM, Chromium
from tests.http.running import RunningVault

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = RunningVault(tmp_path_factory.mktemp("docs") / "data")
    yield running.base
    running.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_the_reference_shows_every_endpoint_error_code_and_schema(base: str, browser: Chromium) -> None:
    browser.open(f"{base}/docs", width=1280)
    document = openapi_document()
    text = browser.evaluate("document.body.innerText")
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(it => it.id)")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in text
            assert operation["summary"] in text
            assert operation["operationId"] in ids
            assert all(parameter["name"] in text for parameter in operation["parameters"])
    for name, schema in document["components"]["schemas"].items():
        assert name in ids
        assert all(member in text for member in schema["properties"])
    assert all(code in text for code in STATUS_OF_CODE)


def test_every_link_of_the_reference_resolves(base: str, browser: Chromium) -> None:
    browser.open(f"{base}/docs", width=1280)
    links = browser.evaluate("[...document.querySelectorAll('a')].map(it => it.getAttribute('href'))")
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(it => it.id)")
    assert len(links) > 30
    assert {link for link in links if not link.startswith("#")} == {"/openapi.json"}
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(ids)
    assert len(ids) == len(set(ids))


def test_the_reference_loads_nothing_from_other_hosts_and_logs_no_browser_error(base: str, browser: Chromium) -> None:
    browser.open(f"{base}/docs", width=1280)
    requested = [event["request"]["url"] for name, event in browser.events if name == "Network.requestWillBeSent"]
    assert f"{base}/docs" in requested
    assert set(requested) <= {f"{base}/docs", f"{base}/favicon.ico"}
    # The policy allows the style by its hash: the browser would log a mismatch here.
    assert [event["entry"]["text"] for name, event in browser.events if name == "Log.entryAdded"] == []


@pytest.mark.parametrize("width", [1600, 1280, 720, 500, 320])
def test_the_reference_fits_every_window_width(base: str, browser: Chromium, width: int) -> None:
    browser.open(f"{base}/docs", width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # The style is applied, and no status is broken in two.
    assert browser.evaluate("getComputedStyle(document.querySelector('code')).fontFamily").startswith("ui-monospace")
    heights = browser.evaluate(
        "[...document.querySelectorAll('th code')].filter(it => /^[0-9]{3}$/.test(it.innerText))"
        ".map(it => it.getClientRects().length)"
    )
    assert len(heights) > 50
    assert set(heights) == {1}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reference_has_enough_contrast_in_light_and_dark_mode(base: str, browser: Chromium, scheme: str) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(f"{base}/docs", width=1280)
    for element in ("body", "a", ".soft", ".chip", ".method", "td.kind"):
        assert _contrast(browser, element) >= 4.5, element  # WCAG 2.2, 1.4.3


def _contrast(browser: Chromium, element: str) -> float:
    """Return the contrast ratio of an element's text to its background."""
    colours = browser.evaluate(
        f"(() => {{ let it = document.querySelector({element!r}); const ink = getComputedStyle(it).color;"
        "while (getComputedStyle(it).backgroundColor === 'rgba(0, 0, 0, 0)') it = it.parentElement;"
        "return [ink, getComputedStyle(it).backgroundColor]; })()"
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(part) / 255 for part in colour[4:-1].split(","))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
