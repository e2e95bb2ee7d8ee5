"""The vault on real infrastructure. `open_vault` is all that an embedding program needs."""

from cdv_adapters.bootstrap import open_vault

__all__ = ["open_vault"]
