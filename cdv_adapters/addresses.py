"""Addresses in settings: which are sound, which could be read on the way, and which hold a secret in plain text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import AnyHttpUrl, AnyUrl, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

SECRET_REFERENCES: Final = ("file:", "vault:", "awskms:")
# Every parameter of libpq that is a secret.
_DSN_PASSWORD: Final = re.compile(
    r"(?:^|[\s?&])(?:(?:ssl)?password|oauth_client_secret|scram_(?:client|server)_key)\s*=\s*'?([^\s'&]+)",
    re.IGNORECASE,
)


def require_address(value: str, schemes: Collection[str], otherwise: str) -> None:
    """Return if the value is a URL with such a scheme, a host where it needs one, and neither user nor password.

    Raises: PydanticCustomError, a ValueError: `otherwise` says that it is not. The value is not repeated.
    """
    try:
        url = AnyUrl(value)
    except ValidationError:
        url = None
    if url is None or url.scheme not in schemes or (not url.host and url.scheme != "file"):
        raise PydanticCustomError("url", otherwise)
    if url.username is not None or url.password is not None:
        raise PydanticCustomError("url", "an address with a user or a password in it; leave them out")


def require_origin(value: str) -> str:
    """Return the origin as browsers send it. Raises: PydanticCustomError: it can be none."""
    try:
        url = AnyHttpUrl(value)
    except ValidationError:
        url = None
    if url is None or value.count("/") != 2 or set(value) & set("*@?#\\"):
        shown = value.rpartition("@")[2]  # what stands before it may be a password
        raise PydanticCustomError(
            "origin", "{origin} is not an origin such as https://app.example.com", {"origin": shown}
        )
    default = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{url.host}{'' if url.port == default else f':{url.port}'}"


def is_plain_http_to_remote(address: str) -> bool:
    """Say whether what goes to that address could be read, or changed, on the way."""
    parts = urlsplit(address)
    try:
        is_here = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        is_here = parts.hostname == "localhost"
    return parts.scheme == "http" and not is_here


def holds_plaintext(name: str, value: SecretStr | None) -> bool:
    """Say whether a secret stands in the setting itself: all of it, or the password of an address."""
    if value is None or value.get_secret_value().startswith(SECRET_REFERENCES):
        return False
    if name in {"s3_access_key", "s3_secret_key", "nats_creds"}:
        return True
    address = value.get_secret_value()
    # Of a URL, the parameters' names may be percent-encoded too.
    passwords = _DSN_PASSWORD.findall(unquote(address) if "://" in address else address)
    for each in address.split(",") if "://" in address or name == "nats_url" else ():  # which needs no scheme
        user_info, at, _ = each.rpartition("@")
        user, colon, password = user_info.rpartition("//")[2].partition(":")
        if at:
            # An address of NATS may hold a token where others hold a name.
            passwords.append(unquote(password) if colon else unquote(user) if name == "nats_url" else "")
    return any(password and not password.startswith(SECRET_REFERENCES) for password in passwords)
