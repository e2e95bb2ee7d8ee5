"""Our media stores against the contract, and against each other."""

from hypothesis.stateful import run_state_machine_as_test

from conformance.ports.media import MediaStoreContract
from conformance.ports.media_machine import media_machine
from conformance.ports.stores import TOGETHER, OpenStores


class TestMediaStores(MediaStoreContract):
    """Runs on each database of the fixture `open_stores` in conftest.py."""


def test_sqlite_and_the_fake_agree(open_sqlite: OpenStores, open_fake: OpenStores):
    run_state_machine_as_test(media_machine(open_sqlite, open_fake), settings=TOGETHER)


def test_sqlite_and_postgres_agree(open_sqlite: OpenStores, open_postgres: OpenStores):
    run_state_machine_as_test(media_machine(open_sqlite, open_postgres), settings=TOGETHER)
