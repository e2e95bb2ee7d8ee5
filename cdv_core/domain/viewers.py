"""Viewers: on whose behalf something is read."""

from __future__ import annotations

from enum import Enum


class Viewer(Enum):
    """A reader without a DID. ANONYMOUS: sent no token. THE_VAULT: the embedding program itself, which may read all."""

    ANONYMOUS = "anonymous"
    THE_VAULT = "the vault"
