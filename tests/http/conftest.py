"""One vault for all tests of the HTTP service; each test has its own creators."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.http.api import Api, Creator, serving


@pytest.fixture(scope="session")
async def api(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with serving(tmp_path_factory.mktemp("vault")) as opened:
        yield opened


@pytest.fixture
def http(api: Api) -> httpx.AsyncClient:
    return api.http


@pytest.fixture
def ada(api: Api) -> Creator:
    """A creator without records."""
    return api.creator()


@pytest.fixture
def bob(api: Api) -> Creator:
    """Another creator without records."""
    return api.creator()
