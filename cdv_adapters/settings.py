"""The process environment as typed settings: read once, validated together, with all problems reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import AliasChoices, ByteSize, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cdv_adapters.addresses import SECRET_REFERENCES, holds_plaintext, is_plain_http_to_remote, require_address
from cdv_adapters.certificates import authority_problem, certificate_problem, key_problem
from cdv_adapters.settings_checks import (
    Bucket,
    HttpOrigin,
    HttpUrl,
    MimeTypes,
    NatsUrls,
    Networks,
    Origins,
    PostgresDsn,
    Rate,
    Replicas,
    SchemasUrl,
    Seconds,
    Secret,
    Size,
    StorageUrl,
    Whole,
)

_CENTURY_SECONDS: Final = 100 * 365 * 86400  # ours: NATS counts nanoseconds in 64 bits, some three centuries
_MEDIA_BYTES_MAX: Final = 5 * 1024**3  # S3: the limit of one PUT and of one copy
_PORT: Final = ("CDV_PORT", "PORT")
_ENV_FILE: Final = ".env"
_SECRETS: Final = ("db_dsn", "s3_access_key", "s3_secret_key", "nats_url", "nats_creds", "rate_limit_storage")
LOCAL_ISSUER: Final = "urn:cdv:local-issuer"

Source = TypeVar("Source", bound=EnvSettingsSource)


class SettingsRefused(Exception):
    """The settings are invalid. `problems`: all of them, one line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _stripped(source: Source) -> Source:
    """Strip the values of a source. Blank values count as unset."""
    stripped = {name: (value or "").strip() for name, value in source.env_vars.items()}
    source.env_vars = {name: value for name, value in stripped.items() if value}
    return source


class Settings(BaseSettings):
    """Everything that operators can configure. Each field is read from the variable `CDV_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CDV_", extra="ignore", frozen=True)

    env: Literal["dev", "staging", "prod"] = Field(
        "dev",
        description="`dev`, `staging` or `prod`; media keys begin with it, so a vault keeps the one it began with",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Whole = Field(
        8080,
        ge=1,
        le=65535,
        validation_alias=AliasChoices(*_PORT),
        description="port to listen on; `PORT` does too",
    )
    data_dir: Path = Field(
        Path("./.cdv"), description="embedded mode: SQLite file, media, local issuer's key, catalogue cache"
    )
    db_dsn: PostgresDsn = Field(None, description="Postgres connection string; unset: embedded SQLite, dev only")
    db_pool_size: Whole = Field(10, ge=2, description="most connections to Postgres per worker")
    db_transaction_pooler: bool = Field(
        False, description="Postgres is behind a pooler in transaction mode, such as PgBouncer"
    )
    s3_endpoint: HttpOrigin = Field(None, description="S3-compatible store; unset: files in the data dir, dev only")
    s3_region: str = Field("us-east-1", description="region of the bucket")
    s3_bucket: Bucket = Field(None, description="bucket for media")
    s3_access_key: Secret = Field(None, description="access key; unset: the platform's own credentials")
    s3_secret_key: Secret = Field(None, description="secret key; unset: the platform's own credentials")
    s3_ca: Path | None = Field(None, description="PEM of the authorities to trust for the object store")
    nats_url: NatsUrls = Field(None, description="NATS JetStream; unset: events stay in the op log")
    nats_creds: Secret = Field(None, description="NATS credentials: the text of a .creds file")
    nats_ca: Path | None = Field(None, description="PEM of the authorities to trust for NATS; set: TLS is required")
    nats_max_age: Seconds = Field(7 * 86400.0, le=_CENTURY_SECONDS, description="seconds that a stream keeps an event")
    nats_max_bytes: Size = Field(ByteSize(1024**3), description="largest size of a stream; the oldest goes first")
    nats_replicas: Replicas = Field(1, description="copies of each stream in a NATS cluster: 1, 3 or 5")
    nats_ack_wait: Seconds = Field(
        30.0, le=86400, description="seconds until a consumer gets again what it did not acknowledge"
    )
    nats_max_ack_pending: Whole = Field(1000, ge=1, description="events a consumer may leave unacknowledged")
    jwt_issuer: str | None = Field(None, description="whose tokens count; unset: the built-in issuer, dev only")
    jwt_audience: str | None = Field(None, description="the audience tokens must name; unset: `cdv`, dev only")
    jwks_url: HttpUrl = Field(None, description="the issuer's keys; unset: `{issuer}/.well-known/jwks.json`")
    jwks_ca: Path | None = Field(None, description="PEM of the authorities to trust for the issuer's keys")
    specs_url: SchemasUrl = Field(None, description="schema catalogue, `https://` or `file://`; unset: the bundled one")
    reject_deprecated_schemas: bool = Field(False, description="refuse deprecated schema versions before their sunset")
    read_auth: Literal["public", "token"] = Field("public", description="`token`: reading records needs a token too")
    cors_allowed_origins: Origins = Field((), description="exact origins, comma-separated; empty: deny all")
    max_body_bytes: Size = Field(ByteSize(1024**2), description="largest request body")
    max_media_size: Size = Field(
        ByteSize(10 * 1024**2), le=_MEDIA_BYTES_MAX, description="largest media object, 5 GiB at most"
    )
    allowed_mime_types: MimeTypes = Field(
        ("image/jpeg", "image/png", "image/gif", "video/mp4"), description="media types accepted, comma-separated"
    )
    rate_limit_writes: Rate = Field("600/minute", description="write budget per subject or address")
    rate_limit_reads: Rate = Field("3000/minute", description="read budget per subject or address")
    rate_limit_storage: StorageUrl = Field(None, description="shared store of the budgets; unset: in this process")
    tls_cert: Path | None = Field(None, description="certificate chain, PEM; unset: plain HTTP, behind a proxy")
    tls_key: Path | None = Field(None, description="private key of the certificate, PEM")
    tls_client_ca: Path | None = Field(None, description="CA of client certificates; set: mutual TLS")
    trusted_proxies: Networks = Field((), description="addresses or networks whose forwarding headers are believed")
    workers: Whole = Field(1, ge=1, le=256, description="worker processes")
    max_in_flight: Whole = Field(256, ge=1, description="requests in flight per worker; beyond that, 503 at once")
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

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problems = tuple(self._inconsistencies())
        if problems:
            raise PydanticCustomError("together", "{problems}", {"problems": "\n".join(problems)})
        return self

    def _inconsistencies(self) -> Iterator[str]:
        if self.env != "dev":
            yield from self._missing_outside_dev()
            yield from self._insecure_outside_dev()
        elif self.s3_endpoint is not None and self.s3_bucket is None:
            yield "CDV_S3_BUCKET: required with CDV_S3_ENDPOINT"
        yield from self._incomplete_groups()
        yield from self.unusable_certificates()
        yield from self._issuer_problems()

    def _missing_outside_dev(self) -> Iterator[str]:
        for name in ("db_dsn", "s3_endpoint", "s3_bucket", "jwt_issuer", "jwt_audience"):
            if getattr(self, name) is None:
                yield f"CDV_{name.upper()}: required when CDV_ENV is {self.env}"

    def _insecure_outside_dev(self) -> Iterator[str]:
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

    def _incomplete_groups(self) -> Iterator[str]:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            yield "CDV_S3_ACCESS_KEY, CDV_S3_SECRET_KEY: give both or neither"
        if (self.tls_cert is None) != (self.tls_key is None):
            yield "CDV_TLS_CERT, CDV_TLS_KEY: give both or neither"
        if self.tls_client_ca is not None and self.tls_cert is None:
            yield "CDV_TLS_CLIENT_CA: needs CDV_TLS_CERT and CDV_TLS_KEY"

    def _issuer_problems(self) -> Iterator[str]:
        if self.jwks_url is not None and self.jwt_issuer is None:
            yield "CDV_JWT_ISSUER: required with CDV_JWKS_URL"
        if self.jwt_issuer is not None and self.jwks_url is None:
            try:
                require_address(self.jwt_issuer, {"http", "https"}, "not an http:// or https:// address")
            except ValueError as error:
                yield f"CDV_JWT_ISSUER: {error}, or set CDV_JWKS_URL to where its keys are"

    def unusable_certificates(self) -> Iterator[str]:
        """Read the files of certificates and keys, and yield the problem of each that cannot be used."""
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
        """Return the settings of a vault embedded in another program: defaults only, without the environment."""
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
        """The URL of the issuer's keys; None with the built-in issuer."""
        if self.jwks_url is not None or self.jwt_issuer is None:
            return self.jwks_url
        return f"{self.jwt_issuer.rstrip('/')}/.well-known/jwks.json"


def read_settings(**overrides: object) -> Settings:
    """Return the settings of the process environment (and of `.env` in dev). `overrides` take precedence.

    Raises: SettingsRefused: with all problems.
    """
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    if "port" in given:
        given["CDV_PORT"] = given.pop("port")
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = tuple(_problems(error))
        # pydantic checks consistency only if every single field is valid. Check it with defaults in place of the
        # invalid fields, so that one start reports every problem.
        invalid = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        defaults = {name: Settings.model_fields[name.removeprefix("CDV_").lower()].default for name in invalid}
        try:
            if invalid:
                Settings(**{**given, **defaults})
        except ValidationError as across:
            # Leave out the invalid fields: with a default in their place, they would be reported as missing too.
            named = tuple(problem.partition(":")[0] for problem in problems)
            problems += tuple(it for it in _problems(across) if it.partition(":")[0] not in named)
        raise SettingsRefused(problems) from error


def env_file_variables() -> frozenset[str]:
    """Return the names that `.env` sets, in capitals. To be called in dev only, after `read_settings`."""
    return frozenset(name.upper() for name in DotEnvSettingsSource(Settings, _ENV_FILE).env_vars)


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        if problem["type"] == "together":
            yield from problem["msg"].splitlines()
        else:
            name = f"CDV_{str(problem['loc'][0]).removeprefix('CDV_').upper()}"
            # pydantic does not say which of the two names was used.
            yield f"{', '.join(_PORT) if name in _PORT else name}: {problem['msg']}"
