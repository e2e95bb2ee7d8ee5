"""The adapters of the vault's ports. An embedding program needs only `open_vault`."""

from cdv_adapters.bootstrap import open_vault

__all__ = ["open_vault"]
