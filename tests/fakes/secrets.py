"""Secrets in a dictionary, for tests of what needs some."""

from __future__ import annotations

from cdv_core.errors import Unavailable


class FakeSecrets:
    """A SecretSource that gives what `values` holds, by reference. `down`: nothing is given."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.down = False

    async def get(self, reference: str) -> str:
        if self.down or reference not in self.values:
            raise Unavailable("secret source") from LookupError("absent, or down")
        return self.values[reference]
