"""The types of settings: how the text of an environment variable is converted, and what is valid.

The checks raise PydanticCustomError, whose message follows the variable's name. A secret is never part of a message.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from cdv_adapters.addresses import SECRET_REFERENCES, check_specs_url, require_address, require_origin

_SECONDS: Final = re.compile(r"(\d+(?:\.\d+)?)\s*s?", re.ASCII)
_SIZE: Final = re.compile(r"\d{1,18}\s*([kmgt]?b|[kmgt]ib)?", re.ASCII | re.IGNORECASE)
_RATE: Final = re.compile(r"[1-9]\d{0,8}/(second|minute|hour|day)")
_MIME_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")  # spec: RFC 6838, 4.2
# S3: neither dots beside dots or hyphens, nor an IP address.
_BUCKET: Final = re.compile(r"(?!.*(\.\.|\.-|-\.))(?!\d+(\.\d+){3}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VAULT_PATH: Final = re.compile(r"[^/#\s]+/[^#\s]+#[^#\s]+")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)")
# The stores of counters that cdv_http/rate_limits.py has clients for.
_STORAGE_URL: Final = re.compile(
    r"(async\+)?((redis|valkey)(s|\+unix|\+cluster|\+sentinel)?|memcached|mongodb(\+srv)?|memory)://"
)
_NATS_SCHEMES: Final = ("nats", "tls", "ws", "wss")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    match = _SECONDS.fullmatch(value) if isinstance(value, str) else None
    return float(match.group(1)) if match else value


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d+", value, re.ASCII) else value


def _digits(value: object) -> object:
    # pydantic would take `8_0` for 80, as Python does.
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+", value, re.ASCII):
        raise PydanticCustomError("int", "not a whole number")
    return value


def _size(value: object) -> object:
    # pydantic would cut `1.5` to 1, and take `8bit` for 1.
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise PydanticCustomError("size", "not a whole number of bytes, such as 1048576 or 1MiB")
    return value


def _check_rate(value: str) -> str:
    if not _RATE.fullmatch(value):
        raise PydanticCustomError("rate", "not a rate such as 600/minute")
    return value


def _check_reference(value: SecretStr | None) -> SecretStr | None:
    kind, _, target = _text(value).partition(":")
    if kind == "file" and not Path(target).is_absolute():
        raise PydanticCustomError("reference", "file: needs an absolute path after it")
    if kind == "vault" and not _VAULT_PATH.fullmatch(target):
        raise PydanticCustomError("reference", "vault: needs <mount>/<path>#<field> after it")
    if kind == "awskms" and not _BASE64.fullmatch(target):
        raise PydanticCustomError("reference", "awskms: needs a ciphertext in base64 after it")
    return value


def _check_dsn(value: SecretStr | None) -> SecretStr | None:
    text = _text(value)
    if text and not text.startswith(SECRET_REFERENCES):
        from cdv_adapters.dsn import is_dsn  # here: an embedded vault opens without loading a driver

        if not is_dsn(text):
            raise PydanticCustomError("dsn", "not a connection string of Postgres")
    return value


def _check_nats_urls(value: SecretStr | None) -> SecretStr | None:
    text = _text(value)
    if text and not text.startswith(SECRET_REFERENCES) and not all(map(_is_nats_url, text.split(","))):
        raise PydanticCustomError("url", "not an address such as nats://host:4222")
    return value


def _is_nats_url(url: str) -> bool:
    scheme, mark, rest = url.strip().rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        return (not mark or scheme in _NATS_SCHEMES) and bool(parts.hostname) and parts.port != 0 and " " not in rest
    except ValueError:  # no port, or no IPv6 address
        return False


def _check_storage_url(value: SecretStr | None) -> SecretStr | None:
    text = _text(value)
    if text and not text.startswith(SECRET_REFERENCES) and not _STORAGE_URL.match(text):
        raise PydanticCustomError("store", "not an address such as redis://host:6379")
    return value


def _check_bucket(value: str | None) -> str | None:
    if value is not None and not _BUCKET.fullmatch(value):
        raise PydanticCustomError("bucket", "not a bucket's name: 3 to 63 of a-z, 0-9, hyphens and dots between them")
    return value


def _check_http_url(value: str | None) -> str | None:
    if value is not None:
        require_address(value, {"http", "https"}, "not an http:// or https:// address")
    return value


def _check_no_path(value: str | None) -> str | None:
    if value is not None and any((urlsplit(value).path.strip("/"), urlsplit(value).query, urlsplit(value).fragment)):
        raise PydanticCustomError("url", "not an address without a path; the bucket's name is CDV_S3_BUCKET")
    return value


def _check_specs_url(value: str | None) -> str | None:
    if value is not None:
        require_address(value, {"http", "https", "file"}, "not an https:// or file:// address")
        try:
            check_specs_url(value)
        except ValueError as error:
            raise PydanticCustomError("url", "{reason}", {"reason": str(error)}) from None
    return value


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(origin if origin == "*" else require_origin(origin) for origin in value)


def _check_mime_types(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise PydanticCustomError("types", "names no media type")
    types = tuple(each.lower() for each in value)
    for each in types:
        if not _MIME_TYPE.fullmatch(each):
            raise PydanticCustomError("types", "{type} is not a media type such as image/png", {"type": each})
    return types


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise PydanticCustomError(
                "network", "{network} is no IP address or network", {"network": network}
            ) from None
    return value


def _text(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


# Annotated validators run from left to right. pydantic does not convert text to the numbers of a Literal.
_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[_Names, AfterValidator(_check_origins)]
MimeTypes = Annotated[_Names, AfterValidator(_check_mime_types)]
Networks = Annotated[_Names, AfterValidator(_check_networks)]

Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Size = Annotated[ByteSize, BeforeValidator(_size), Field(gt=0, lt=2**63)]
Whole = Annotated[int, BeforeValidator(_digits)]
Replicas = Annotated[Literal[1, 3, 5], BeforeValidator(_number)]
Rate = Annotated[str, AfterValidator(_check_rate)]

Secret = Annotated[SecretStr | None, AfterValidator(_check_reference)]
PostgresDsn = Annotated[Secret, AfterValidator(_check_dsn)]
NatsUrls = Annotated[Secret, AfterValidator(_check_nats_urls)]
StorageUrl = Annotated[Secret, AfterValidator(_check_storage_url)]

Bucket = Annotated[str | None, AfterValidator(_check_bucket)]
HttpUrl = Annotated[str | None, AfterValidator(_check_http_url)]
HttpOrigin = Annotated[HttpUrl, AfterValidator(_check_no_path)]
SchemasUrl = Annotated[str | None, AfterValidator(_check_specs_url)]
