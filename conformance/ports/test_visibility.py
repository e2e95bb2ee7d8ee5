"""Our stores of owner-only collections, put to the contract."""

from conformance.ports.visibility import OwnerOnlyContract


class TestOwnerOnlyStores(OwnerOnlyContract):
    """Each of `open_stores` in conftest.py."""
