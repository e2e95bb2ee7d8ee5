"""Fixtures that every suite may use (tests and conformance)."""

import pytest

pytest_plugins = ["tests.leaks", "tests.servers.fixtures"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The only loop the product runs on: its drivers know no other."""
    return "asyncio"
