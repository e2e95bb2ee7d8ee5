"""Checks on addresses in settings: whether they are valid, unencrypted, or contain a secret in plain text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import AnyHttpUrl, AnyUrl, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

SECRET_REFERENCES: Final = ("file:", "vault:", "awskms:")
# Matches every libpq parameter that is a secret.
_DSN_PASSWORD: Final = re.compile(
    r"(?:^|[\s?&])(?:(?:ssl)?password|oauth_client_secret|scram_(?:client|server)_key)\s*=\s*'?([^\s'&]+)",
    re.IGNORECASE,
)


def require_address(value: str, schemes: Collection[str], otherwise: str) -> None:
    """Return if the value is a URL with one of the schemes, a host unless it is a file, and no user or password.

    Raises: PydanticCustomError, a ValueError: `otherwise` is the message. It never contains the value.
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
    """Return the origin as browsers send it. Raises: PydanticCustomError: not an origin."""
    try:
        url = AnyHttpUrl(value)
    except ValidationError:
        url = None
    if url is None or value.count("/") != 2 or set(value) & set("*@?#\\"):
        shown = value.rpartition("@")[2]  # the part before it may be a password
        raise PydanticCustomError(
            "origin", "{origin} is not an origin such as https://app.example.com", {"origin": shown}
        )
    default = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{url.host}{'' if url.port == default else f':{url.port}'}"


def check_specs_url(url: str) -> None:
    """Return if `url` is https, file with an absolute path, or http to this machine, and nothing but an address.

    Raises: ValueError: it is not.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ValueError("a file URL names a file of this machine: file:///path")
    elif parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("it must begin with https:// or file://")
    elif is_plain_http_to_remote(url):
        raise ValueError("http:// is for this machine's own loopback; use https://")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("it must not have a user, a query or a fragment")


def is_plain_http_to_remote(address: str) -> bool:
    """Return whether traffic to that address is unencrypted and leaves this machine."""
    parts = urlsplit(address)
    try:
        is_loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        is_loopback = parts.hostname == "localhost"
    return parts.scheme == "http" and not is_loopback


def holds_plaintext(name: str, value: SecretStr | None) -> bool:
    """Return whether the setting contains a secret in plain text: as its whole value, or as an address's password."""
    if value is None or value.get_secret_value().startswith(SECRET_REFERENCES):
        return False
    if name in {"s3_access_key", "s3_secret_key", "nats_creds"}:
        return True
    address = value.get_secret_value()
    # In a URL, the names of parameters may be percent-encoded too.
    passwords = _DSN_PASSWORD.findall(unquote(address) if "://" in address else address)
    for each in address.split(",") if "://" in address or name == "nats_url" else ():  # nats_url needs no scheme
        user_info, at, _ = each.rpartition("@")
        user, colon, password = user_info.rpartition("//")[2].partition(":")
        if at:
            # In a NATS address, a user without a password is a token.
            passwords.append(unquote(password) if colon else unquote(user) if name == "nats_url" else "")
    return any(password and not password.startswith(SECRET_REFERENCES) for password in passwords)
