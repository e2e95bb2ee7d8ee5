"""Connection strings of Postgres, as libpq reads them: URIs and keyword/value pairs."""

from __future__ import annotations

import re
from typing import Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdv_core.errors import CannotStart

_PORT: Final = re.compile(r"\s*([0-9]{1,5})\s*")
_PORT_MAX: Final = 65535


def is_dsn(text: str) -> bool:
    """Return whether libpq can parse this connection string and its ports exist."""
    try:
        ports = str(conninfo_to_dict(text).get("port") or "").split(",")
    except (ProgrammingError, UnicodeEncodeError):
        return False
    return all(not port or _is_port(port) for port in ports)


def _is_port(text: str) -> bool:
    match = _PORT.fullmatch(text)
    return match is not None and 0 < int(match[1]) <= _PORT_MAX


def split_password(dsn: str) -> tuple[str, str | None]:
    """Return the connection string without its password, and the password, None if it has none.

    Raises: CannotStart: the string cannot be parsed.
    """
    try:
        parameters = conninfo_to_dict(dsn)
    except ProgrammingError:
        # `from None`: the error quotes the part that it could not parse, which may be the password.
        raise CannotStart("read the connection string", "it is not one", "correct CDV_DB_DSN") from None
    password = parameters.pop("password", None)
    return make_conninfo("", **parameters), None if password is None else str(password)
