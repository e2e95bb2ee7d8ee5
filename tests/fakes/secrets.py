"""An in-memory secret source."""

from __future__ import annotations

from cdv_core.errors import Unavailable


class FakeSecrets:
    """A SecretSource. `values`: the secrets, by reference. `down`: every call raises Unavailable."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.down = False

    async def get(self, reference: str) -> str:
        if self.down or reference not in self.values:
            raise Unavailable("secret_source") from LookupError("absent, or down")
        return self.values[reference]
