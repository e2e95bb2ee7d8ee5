"""The process environment as typed settings: read once, checked together, reported together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cdv_adapters.addresses import (
    SECRET_REFERENCES,
    holds_plaintext,
    is_plain_http_to_remote,
    require_address,
    require_origin,
)
from cdv_adapters.certificates import authority_problem, certificate_problem, key_problem

_SECONDS: Final = re.compile(r"(\d+(?:\.\d+)?)\s*s?")
_RATE: Final = re.compile(r"[1-9]\d{0,8}/(second|minute|hour|day)")
_MIME_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")  # spec: RFC 6838, 4.2
_CENTURY_SECONDS: Final = 100 * 365 * 86400  # ours: NATS counts nanoseconds in 64 bits, some three centuries
_MEDIA_BYTES_MAX: Final = 5 * 1024**3  # S3: what one PUT and one copy can carry
# S3: neither dots beside dots or hyphens, nor an IP address.
_BUCKET: Final = re.compile(r"(?!.*(\.\.|\.-|-\.))(?!\d+(\.\d+){3}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PORT: Final = ("CDV_PORT", "PORT")
_ENV_FILE: Final = ".env"
_SECRETS: Final = ("db_dsn", "s3_access_key", "s3_secret_key", "nats_url", "nats_creds", "rate_limit_storage")
_DSN: Final = re.compile(r"postgres(?:ql)?://|\w+\s*=")  # how one begins, as an address or as pairs
_VAULT_PLACE: Final = re.compile(r"[^/#\s]+/[^#\s]+#[^#\s]+")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)")
_STORE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NATS_SCHEMES: Final = ("nats", "tls", "ws", "wss")
LOCAL_ISSUER: Final = "urn:cdv:local-issuer"

Source = TypeVar("Source", bound=EnvSettingsSource)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    match = _SECONDS.fullmatch(value) if isinstance(value, str) else None
    return float(match.group(1)) if match else value


def _stripped(source: Source) -> Source:
    """Take the spaces around values away; what is blank counts as unset."""
    stripped = {name: (value or "").strip() for name, value in source.env_vars.items()}
    source.env_vars = {name: value for name, value in stripped.items() if value}
    return source


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Replicas = Annotated[Literal[1, 3, 5], BeforeValidator(_number)]  # a Literal takes no text for a number


class SettingsRefused(Exception):
    """The environment does not add up. `problems` has one line each, all of them."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Everything an operator may decide. Each field is the variable `CDV_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CDV_", extra="ignore", frozen=True)

    env: Literal["dev", "staging", "prod"] = Field(
        "dev",
        description="`dev`, `staging` or `prod`; media keys begin with it, so a vault keeps the one it began with",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(
        8080,
        ge=1,
        le=65535,
        validation_alias=AliasChoices(*_PORT),
        description="port to listen on; `PORT` does too",
    )
    data_dir: Path = Field(
        Path("./.cdv"), description="embedded mode: SQLite file, media, local issuer's key, catalogue cache"
    )
    db_dsn: SecretStr | None = Field(None, description="Postgres connection string; unset: embedded SQLite, dev only")
    db_pool_size: int = Field(10, ge=2, description="most connections to Postgres per worker")
    db_transaction_pooler: bool = Field(
        False, description="Postgres is behind a pooler in transaction mode, such as PgBouncer"
    )
    s3_endpoint: str | None = Field(None, description="S3-compatible store; unset: files in the data dir, dev only")
    s3_region: str = Field("us-east-1", description="region of the bucket")
    s3_bucket: str | None = Field(None, description="bucket for media")
    s3_access_key: SecretStr | None = Field(None, description="access key; unset: the platform's own credentials")
    s3_secret_key: SecretStr | None = Field(None, description="secret key; unset: the platform's own credentials")
    s3_ca: Path | None = Field(None, description="PEM of the authorities to trust for the object store")
    nats_url: SecretStr | None = Field(None, description="NATS JetStream; unset: events stay in the op log")
    nats_creds: SecretStr | None = Field(None, description="NATS credentials: the text of a .creds file")
    nats_ca: Path | None = Field(None, description="PEM of the authorities to trust for NATS; set: TLS is required")
    nats_max_age: Seconds = Field(7 * 86400.0, le=_CENTURY_SECONDS, description="seconds that a stream keeps an event")
    nats_max_bytes: ByteSize = Field(
        ByteSize(1024**3), gt=0, description="largest size of a stream; the oldest goes first"
    )
    nats_replicas: Replicas = Field(1, description="copies of each stream in a NATS cluster: 1, 3 or 5")
    nats_ack_wait: Seconds = Field(
        30.0, le=86400, description="seconds until a consumer gets again what it did not acknowledge"
    )
    nats_max_ack_pending: int = Field(1000, ge=1, description="events a consumer may leave unacknowledged")
    jwt_issuer: str | None = Field(None, description="whose tokens count; unset: the built-in issuer, dev only")
    jwt_audience: str | None = Field(None, description="the audience tokens must name; unset: `cdv`, dev only")
    jwks_url: str | None = Field(None, description="the issuer's keys; unset: `{issuer}/.well-known/jwks.json`")
    jwks_ca: Path | None = Field(None, description="PEM of the authorities to trust for the issuer's keys")
    specs_url: str | None = Field(None, description="schema catalogue, `https://` or `file://`; unset: the bundled one")
    reject_deprecated_schemas: bool = Field(False, description="refuse deprecated schema versions before their sunset")
    read_auth: Literal["public", "token"] = Field("public", description="`token`: reading records needs a token too")
    cors_allowed_origins: Names = Field((), description="exact origins, comma-separated; empty: deny all")
    max_body_bytes: ByteSize = Field(ByteSize(1024**2), gt=0, description="largest request body")
    max_media_size: ByteSize = Field(
        ByteSize(10 * 1024**2), gt=0, le=_MEDIA_BYTES_MAX, description="largest media object, 5 GiB at most"
    )
    allowed_mime_types: Names = Field(
        ("image/jpeg", "image/png", "image/gif", "video/mp4"), description="media types accepted, comma-separated"
    )
    rate_limit_writes: str = Field("600/minute", description="write budget per subject or address")
    rate_limit_reads: str = Field("3000/minute", description="read budget per subject or address")
    rate_limit_storage: SecretStr | None = Field(
        None, description="shared store of the budgets; unset: in this process"
    )
    tls_cert: Path | None = Field(None, description="certificate chain, PEM; unset: plain HTTP, behind a proxy")
    tls_key: Path | None = Field(None, description="private key of the certificate, PEM")
    tls_client_ca: Path | None = Field(None, description="CA of client certificates; set: mutual TLS")
    trusted_proxies: Names = Field((), description="addresses or networks whose forwarding headers are believed")
    workers: int = Field(1, ge=1, le=256, description="worker processes")
    max_in_flight: int = Field(256, ge=1, description="requests under way per worker; beyond that, 503 at once")
    request_timeout: Seconds = Field(
        30.0, le=3600, description="seconds a request may take; finalize reads and copies the object in that time"
    )
    shutdown_grace: Seconds = Field(25.0, le=3600, description="seconds that requests in flight get at shutdown")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="`debug`, `info`, `warning` or `error`: lines below it are not written"
    )
    log_sample: float = Field(
        1.0, ge=0, le=1, description="share of successful requests that are logged; refusals and errors all are"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = _stripped(EnvSettingsSource(settings_cls))
        if environment.env_vars.get("cdv_env", "dev") != "dev":
            return (init_settings, environment)
        try:
            file = _stripped(DotEnvSettingsSource(settings_cls, _ENV_FILE))
        except (OSError, UnicodeError) as error:
            raise SettingsRefused((f"{_ENV_FILE}: cannot be read as UTF-8 ({error})",)) from error
        env = file.env_vars.get("cdv_env", "dev")
        if env != "dev" and "cdv_env" not in environment.env_vars:
            raise SettingsRefused(
                (f"CDV_ENV: {_ENV_FILE} is read in dev only; set {env} and all else in the environment",)
            )
        return (init_settings, environment, file)

    @field_validator("rate_limit_writes", "rate_limit_reads")
    @classmethod
    def _is_rate(cls, value: str) -> str:
        if not _RATE.fullmatch(value):
            raise PydanticCustomError("rate", "not a rate such as 600/minute")
        return value

    @field_validator(*_SECRETS)
    @classmethod
    def _can_be_followed(cls, value: SecretStr | None) -> SecretStr | None:
        kind, _, place = ("" if value is None else value.get_secret_value()).partition(":")
        if kind == "file" and not Path(place).is_absolute():
            raise PydanticCustomError("reference", "file: needs an absolute path after it")
        if kind == "vault" and not _VAULT_PLACE.fullmatch(place):
            raise PydanticCustomError("reference", "vault: needs <mount>/<path>#<field> after it")
        if kind == "awskms" and not _BASE64.fullmatch(place):
            raise PydanticCustomError("reference", "awskms: needs a ciphertext in base64 after it")
        return value

    @field_validator("db_dsn")
    @classmethod
    def _is_dsn(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value()
        if text and not text.startswith(SECRET_REFERENCES) and not _DSN.match(text):
            raise PydanticCustomError("dsn", "not a connection string of Postgres")
        return value

    @field_validator("nats_url")
    @classmethod
    def _are_nats_urls(cls, value: SecretStr | None) -> SecretStr | None:
        for each in ("" if value is None else value.get_secret_value()).split(","):
            scheme, mark, _ = each.strip().partition("://")
            if mark and scheme not in _NATS_SCHEMES:
                raise PydanticCustomError("url", "not an address such as nats://host:4222")
        return value

    @field_validator("rate_limit_storage")
    @classmethod
    def _is_store(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value()
        if text and not text.startswith(SECRET_REFERENCES) and not _STORE.match(text):
            raise PydanticCustomError("store", "not an address such as redis://host:6379")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        if value is not None and not _BUCKET.fullmatch(value):
            raise PydanticCustomError(
                "bucket", "not a bucket's name: 3 to 63 of a-z, 0-9, hyphens and dots between them"
            )
        return value

    @field_validator("s3_endpoint", "jwks_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None:
            require_address(value, {"http", "https"}, "not an http:// or https:// address")
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _has_no_path(cls, value: str | None) -> str | None:
        if value is not None and any(
            (urlsplit(value).path.strip("/"), urlsplit(value).query, urlsplit(value).fragment)
        ):
            raise PydanticCustomError("url", "not an address without a path; the bucket's name is CDV_S3_BUCKET")
        return value

    @field_validator("specs_url")
    @classmethod
    def _is_specs_url(cls, value: str | None) -> str | None:
        if value is not None:
            require_address(value, {"http", "https", "file"}, "not an https:// or file:// address")
            if is_plain_http_to_remote(value):
                raise PydanticCustomError("url", "http:// is for this machine's own loopback; use https://")
        return value

    @field_validator("cors_allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(origin if origin == "*" else require_origin(origin) for origin in value)

    @field_validator("allowed_mime_types")
    @classmethod
    def _are_mime_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise PydanticCustomError("types", "names no media type")
        types = tuple(each.lower() for each in value)
        for each in types:
            if not _MIME_TYPE.fullmatch(each):
                raise PydanticCustomError("types", "{type} is not a media type such as image/png", {"type": each})
        return types

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise PydanticCustomError(
                    "network", "{network} is no IP address or network", {"network": network}
                ) from None
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        problems = tuple(self._contradictions())
        if problems:
            raise PydanticCustomError("together", "{problems}", {"problems": "\n".join(problems)})
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.env != "dev":
            needed = {
                "CDV_DB_DSN": self.db_dsn,
                "CDV_S3_ENDPOINT": self.s3_endpoint,
                "CDV_S3_BUCKET": self.s3_bucket,
                "CDV_JWT_ISSUER": self.jwt_issuer,
                "CDV_JWT_AUDIENCE": self.jwt_audience,
            }
            for name, value in needed.items():
                if value is None:
                    yield f"{name}: required when CDV_ENV is {self.env}"
            for name in _SECRETS:
                if holds_plaintext(name, getattr(self, name)):
                    yield (
                        f"CDV_{name.upper()}: a secret in plain text is refused when CDV_ENV is {self.env}; "
                        f"give a reference ({', '.join(SECRET_REFERENCES)})"
                    )
            keys_at = "jwt_issuer" if self.jwks_url is None else "jwks_url"
            for name in (keys_at, "s3_endpoint"):
                address = getattr(self, name)
                if address is not None and is_plain_http_to_remote(address):
                    yield f"CDV_{name.upper()}: https:// is required when CDV_ENV is {self.env}"
            if "*" in self.cors_allowed_origins:
                yield "CDV_CORS_ALLOWED_ORIGINS: * is for CDV_ENV=dev only; list exact origins"
        elif self.s3_endpoint is not None and self.s3_bucket is None:
            yield "CDV_S3_BUCKET: required with CDV_S3_ENDPOINT"
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            yield "CDV_S3_ACCESS_KEY, CDV_S3_SECRET_KEY: give both or neither"
        if (self.tls_cert is None) != (self.tls_key is None):
            yield "CDV_TLS_CERT, CDV_TLS_KEY: give both or neither"
        if self.tls_client_ca is not None and self.tls_cert is None:
            yield "CDV_TLS_CLIENT_CA: needs CDV_TLS_CERT and CDV_TLS_KEY"
        yield from self.unusable_certificates()
        if self.jwks_url is not None and self.jwt_issuer is None:
            yield "CDV_JWT_ISSUER: required with CDV_JWKS_URL"
        if self.jwt_issuer is not None and self.jwks_url is None:
            try:
                require_address(self.jwt_issuer, {"http", "https"}, "not an http:// or https:// address")
            except ValueError as error:
                yield f"CDV_JWT_ISSUER: {error}, or set CDV_JWKS_URL to where its keys are"

    def unusable_certificates(self) -> Iterator[str]:
        """Yield the problem of each file of certificates or keys that cannot be used, as it is now."""
        for name in ("tls_client_ca", "nats_ca", "s3_ca", "jwks_ca"):
            if (path := getattr(self, name)) is not None and (problem := authority_problem(path)) is not None:
                yield f"CDV_{name.upper()}: cannot use {path}: {problem}"
        if self.tls_cert is None or self.tls_key is None:
            return
        if (problem := key_problem(self.tls_key)) is not None:
            yield f"CDV_TLS_KEY: cannot use {self.tls_key}: {problem}"
        elif (problem := certificate_problem(self.tls_cert, self.tls_key)) is not None:
            yield f"CDV_TLS_CERT, CDV_TLS_KEY: cannot use {self.tls_cert}: {problem}"

    @classmethod
    def embedded(cls, data_dir: Path) -> Self:
        """Return the settings of a vault inside another program: all defaults, the environment unheard."""
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return cls.model_construct(**{**defaults, "data_dir": data_dir})

    @property
    def is_dev(self) -> bool:
        return self.env == "dev"

    @property
    def issuer(self) -> str:
        return self.jwt_issuer or LOCAL_ISSUER

    @property
    def audience(self) -> str:
        return self.jwt_audience or "cdv"

    @property
    def keys_url(self) -> str | None:
        """Where the issuer's keys are; None with the built-in issuer."""
        if self.jwks_url is not None or self.jwt_issuer is None:
            return self.jwks_url
        return f"{self.jwt_issuer.rstrip('/')}/.well-known/jwks.json"


def read_settings(**overrides: object) -> Settings:
    """Return the settings of the process environment (and `.env` in dev), `overrides` first.

    Raises: SettingsRefused: with every problem that there is.
    """
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    if "port" in given:
        given["CDV_PORT"] = given.pop("port")
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = tuple(_problems(error))
        # The checks across fields ran only if each field was sound by itself: put defaults for those that are not,
        # so that one start shows every problem.
        unsound = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        defaults = {name: Settings.model_fields[name.removeprefix("CDV_").lower()].default for name in unsound}
        try:
            if unsound:
                Settings(**{**given, **defaults})
        except ValidationError as across:
            # Not of those: what is given, and wrong, would be called missing too.
            named = tuple(problem.partition(":")[0] for problem in problems)
            problems += tuple(it for it in _problems(across) if it.partition(":")[0] not in named)
        raise SettingsRefused(problems) from error


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        if problem["type"] == "together":
            yield from problem["msg"].splitlines()
        else:
            name = f"CDV_{str(problem['loc'][0]).removeprefix('CDV_').upper()}"
            # pydantic does not tell by which of its names a value came.
            yield f"{', '.join(_PORT) if name in _PORT else name}: {problem['msg']}"
