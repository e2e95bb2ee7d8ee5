"""Our stores of owner-only collections against the contract."""

from conformance.ports.visibility import OwnerOnlyContract


class TestOwnerOnlyStores(OwnerOnlyContract):
    """Runs on each database of the fixture `open_stores` in conftest.py."""
