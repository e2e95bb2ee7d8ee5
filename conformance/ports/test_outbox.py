"""Our outboxes, put to the contract."""

from hypothesis.stateful import run_state_machine_as_test

from conformance.ports.outbox import OutboxContract
from conformance.ports.outbox_machine import outbox_machine
from conformance.ports.stores import TOGETHER, OpenStores


class TestOutboxes(OutboxContract):
    """Each of `open_stores` in conftest.py."""


def test_sqlite_and_the_fake_agree(open_sqlite: OpenStores, open_fake: OpenStores):
    run_state_machine_as_test(outbox_machine(open_sqlite, open_fake), settings=TOGETHER)


def test_sqlite_and_postgres_agree(open_sqlite: OpenStores, open_postgres: OpenStores):
    run_state_machine_as_test(outbox_machine(open_sqlite, open_postgres), settings=TOGETHER)
