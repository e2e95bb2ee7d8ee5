"""A running service keeps its secrets during an outage of their source."""

import pytest

from cdv_adapters.secrets.remembered import RememberedSecrets
from cdv_core.errors import Unavailable
from tests.fakes.secrets import FakeSecrets


class CountingSecrets(FakeSecrets):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, reference: str) -> str:
        self.reads += 1
        return await super().get(reference)


class FakeMonotonic:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def source() -> CountingSecrets:
    source = CountingSecrets()
    source.values["db"] = "first"
    return source


async def test_a_secret_is_read_from_the_source_each_time(source: CountingSecrets):
    secrets = RememberedSecrets(source)
    assert await secrets.get("db") == "first"

    source.values["db"] = "second"

    assert await secrets.get("db") == "second"


async def test_during_an_outage_the_last_value_is_returned_and_the_source_retried_every_5_s(source: CountingSecrets):
    monotonic = FakeMonotonic()
    secrets = RememberedSecrets(source, monotonic=monotonic)
    await secrets.get("db")
    source.values["db"] = "second"
    assert await secrets.get("db") == "second"

    source.down = True
    for _ in range(10):
        assert await secrets.get("db") == "second"
    assert source.reads == 3
    monotonic.now += 5
    assert await secrets.get("db") == "second"
    assert source.reads == 4

    source.down = False
    source.values["db"] = "third"
    assert await secrets.get("db") == "second"
    monotonic.now += 5
    assert await secrets.get("db") == "third"
    assert await secrets.get("db") == "third"
    assert source.reads == 6


async def test_a_secret_never_read_is_unavailable_during_an_outage(source: CountingSecrets):
    secrets = RememberedSecrets(source)
    await secrets.get("db")
    source.down = True
    await secrets.get("db")

    with pytest.raises(Unavailable):
        await secrets.get("other")
