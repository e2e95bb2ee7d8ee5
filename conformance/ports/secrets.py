"""The contract of secret sources."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cdv_core.errors import InvalidField, Unavailable
from cdv_core.ports.secrets import SecretSource

SECRETS = {
    "a word": "hunter2",
    "what JSON and URLs must escape": '"\\ {}#?&%2F/:@é☃\U0001f600',
    "white space inside and around": "  a\tb  c ",
    "several lines": "-----BEGIN-----\nline\n\nline\n-----END-----",
    "as long as KMS accepts": "x" * 4096,
}


@dataclass(frozen=True, slots=True)
class Rig:
    """A source, and ways to change its content. `put(value)` stores a secret and returns its reference.

    `replace(reference, value)`: stores another value there; None if a reference cannot change its value. `away(True)`
    makes the source unavailable. `absent`: a valid reference to nothing. `malformed`: invalid references of this
    source. `foreign`: references of other sources.
    """

    source: SecretSource
    put: Callable[[str], str]
    away: Callable[[bool], None]
    absent: str
    replace: Callable[[str, str], None] | None = None
    malformed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = field(default=("", "hunter2", "FILE:/x", "env:X", "vault", "://"))


def loggable_text(error: BaseException) -> str:
    """Return everything that a log could show of an error: its text, its traceback, its cause and its context."""
    return repr(error) + "".join(traceback.format_exception(error)) + repr(error.__cause__) + repr(error.__context__)


class SecretSourceContract:
    """To use it, inherit and provide the fixture `rig`: a fresh Rig."""

    @pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
    async def test_a_secret_is_returned_unchanged(self, rig: Rig, secret: str):
        reference = rig.put(secret)

        assert await rig.source.get(reference) == secret
        assert await rig.source.get(reference) == secret

    async def test_each_reference_returns_its_own_secret(self, rig: Rig):
        references = {rig.put(f"secret {n}"): f"secret {n}" for n in range(3)}

        for reference, secret in references.items():
            assert await rig.source.get(reference) == secret

    async def test_a_changed_secret_is_returned_by_the_next_call(self, rig: Rig):
        if rig.replace is None:
            pytest.skip("a reference of this source never changes its meaning")
        reference = rig.put("before")
        assert await rig.source.get(reference) == "before"

        rig.replace(reference, "after")

        assert await rig.source.get(reference) == "after"

    async def test_a_missing_secret_is_unavailable_with_a_cause(self, rig: Rig):
        with pytest.raises(Unavailable) as caught:
            await rig.source.get(rig.absent)

        assert caught.value.dependency == "secret_source"
        assert str(caught.value.__cause__)

    async def test_a_malformed_or_foreign_reference_is_refused(self, rig: Rig):
        for reference in (*rig.malformed, *rig.foreign):
            with pytest.raises(InvalidField):
                await rig.source.get(reference)

    async def test_a_source_is_unavailable_during_an_outage_and_works_afterwards(self, rig: Rig):
        reference = rig.put("hunter2")
        rig.away(True)
        with pytest.raises(Unavailable):
            await rig.source.get(reference)
        rig.away(False)

        assert await rig.source.get(reference) == "hunter2"

    async def test_neither_the_source_nor_its_errors_show_a_secret(self, rig: Rig):
        secret = "hunter2-hunter2"
        reference = rig.put(secret)
        await rig.source.get(reference)
        shown = repr(rig.source) + str(rig.source)
        rig.away(True)
        for bad in (reference, rig.absent, *rig.malformed, f"{secret}:x"):
            try:
                await rig.source.get(bad)
            except (Unavailable, InvalidField) as error:
                shown += loggable_text(error)

        assert secret not in shown
