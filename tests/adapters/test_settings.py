"""Settings from the environment: units, normalization, aliases, the .env file, and masking."""

from pathlib import Path

import pytest

from cdv_adapters.settings import LOCAL_ISSUER, Settings, read_settings
from cdv_adapters.settings_listing import markdown_table, masked, unknown_variables
from tests.adapters.environments import PRODUCTION, clean_environment, environment, problems

__all__ = ["clean_environment"]  # the fixture


def test_the_defaults_match_the_contract():
    settings = read_settings()
    assert (settings.env, settings.host, settings.port) == ("dev", "127.0.0.1", 8080)
    assert settings.data_dir == Path(".cdv")
    assert (settings.issuer, settings.audience) == (LOCAL_ISSUER, "cdv")
    assert (settings.max_body_bytes, settings.max_media_size) == (2**20, 10 * 2**20)
    assert settings.allowed_mime_types == ("image/jpeg", "image/png", "image/gif", "video/mp4")
    assert (settings.rate_limit_writes, settings.rate_limit_reads) == ("600/minute", "3000/minute")
    assert (settings.workers, settings.request_timeout, settings.shutdown_grace) == (1, 30, 25)
    assert settings.read_auth == "public"
    assert settings.cors_allowed_origins == settings.trusted_proxies == ()
    assert settings.reject_deprecated_schemas is False


def test_embedded_settings_ignore_the_environment(monkeypatch):
    environment(monkeypatch, CDV_READ_AUTH="token", CDV_ENV="prod")
    assert Settings.embedded(Path("x")) == Settings.embedded(Path("x"))
    assert Settings.embedded(Path("x")).read_auth == "public"
    assert Settings.embedded(Path("x")).env == "dev"
    assert Settings.embedded(Path("x")).data_dir == Path("x")


def test_values_are_read_with_their_units(monkeypatch):
    environment(
        monkeypatch,
        CDV_MAX_BODY_BYTES="2MiB",
        CDV_REQUEST_TIMEOUT="1.5s",
        CDV_SHUTDOWN_GRACE="7",
        CDV_ALLOWED_MIME_TYPES=" image/png , image/webp ,",
        CDV_REJECT_DEPRECATED_SCHEMAS="true",
        CDV_NATS_REPLICAS="3",
        CDV_TRUSTED_PROXIES="10.0.0.0/8,::1",
        CDV_CORS_ALLOWED_ORIGINS="https://app.example.com,http://localhost:3000",
    )
    settings = read_settings()
    assert settings.max_body_bytes == 2 * 2**20
    assert (settings.request_timeout, settings.shutdown_grace) == (1.5, 7)
    assert settings.allowed_mime_types == ("image/png", "image/webp")
    assert settings.reject_deprecated_schemas is True
    assert settings.nats_replicas == 3
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.cors_allowed_origins == ("https://app.example.com", "http://localhost:3000")


def test_port_is_an_alias_of_cdv_port_and_the_command_line_takes_precedence(monkeypatch):
    environment(monkeypatch, PORT="9000")
    assert read_settings().port == 9000
    environment(monkeypatch, CDV_PORT="9001")
    assert read_settings().port == 9001
    assert read_settings(port=9002, host=None).port == 9002


def test_an_empty_variable_counts_as_unset(monkeypatch):
    environment(monkeypatch, CDV_DB_DSN="", CDV_PORT="")
    assert read_settings().db_dsn is None
    assert read_settings().port == 8080


def test_values_are_stripped_and_blank_ones_count_as_unset(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("CDV_S3_REGION=' eu-west-1 '\nCDV_READ_AUTH=token\n")
    environment(
        monkeypatch,
        CDV_DATA_DIR=" data ",
        CDV_JWT_AUDIENCE=" theirs ",
        CDV_NATS_URL=" nats://h\n",
        CDV_REQUEST_TIMEOUT=" 3 ",
        CDV_READ_AUTH=" ",
        CDV_PORT=" ",
        PORT=" 9000 ",
    )
    settings = read_settings()
    assert (settings.data_dir, settings.jwt_audience, settings.request_timeout) == (Path("data"), "theirs", 3)
    assert settings.nats_url is not None
    assert settings.nats_url.get_secret_value() == "nats://h"
    assert (settings.s3_region, settings.read_auth, settings.port) == ("eu-west-1", "token", 9000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CDV_DB_DSN", "postgres://db/cdv"),
        ("CDV_DB_DSN", " host = db"),
        ("CDV_DB_DSN", "awskms:aGk="),
        ("CDV_NATS_URL", "tls://a:4222,nats://b"),
        ("CDV_NATS_URL", "a:4222, token@b, c"),
        ("CDV_NATS_URL", "wss://nats"),
        ("CDV_NATS_URL", "vault:kv/cdv#nats"),
        ("CDV_SPECS_URL", "http://127.0.0.1:8000"),
        ("CDV_SPECS_URL", "http://127.0.0.2/specs"),
        ("CDV_SPECS_URL", "http://localhost/specs"),
        ("CDV_SPECS_URL", "http://[::1]/specs"),
        ("CDV_SPECS_URL", "file:///srv/specs"),
    ],
)
def test_supported_addresses_are_accepted(monkeypatch, name, value):
    environment(monkeypatch, **{name: value})
    assert read_settings()


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("https://localhost:80", "https://localhost:80"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_normalized_as_browsers_send_them(monkeypatch, given, origin):
    environment(monkeypatch, CDV_CORS_ALLOWED_ORIGINS=given)
    assert read_settings().cors_allowed_origins == (origin,)


def test_media_types_are_lowercased(monkeypatch):
    environment(monkeypatch, CDV_ALLOWED_MIME_TYPES="IMAGE/PNG, application/vnd.x+JSON")
    assert read_settings().allowed_mime_types == ("image/png", "application/vnd.x+json")


def test_an_issuer_that_is_not_a_url_is_accepted_with_a_jwks_url(monkeypatch):
    environment(monkeypatch, CDV_JWT_ISSUER="urn:x", CDV_JWKS_URL="https://id.example.com/keys")
    assert read_settings().issuer == "urn:x"


def test_dotenv_is_read_in_dev_only_and_the_environment_takes_precedence(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("CDV_PORT=9000\nCDV_READ_AUTH=token\n")
    assert (read_settings().port, read_settings().read_auth) == (9000, "token")
    environment(monkeypatch, CDV_PORT="9001")
    assert read_settings().port == 9001
    environment(monkeypatch, **PRODUCTION)
    assert read_settings().read_auth == "public"


@pytest.mark.parametrize("env", ["", " dev "])
def test_dotenv_is_read_if_cdv_env_is_empty_or_padded(monkeypatch, tmp_path, env):
    (tmp_path / ".env").write_text("CDV_PORT=9000\n")
    environment(monkeypatch, CDV_ENV=env)
    assert read_settings().port == 9000


def test_dotenv_cannot_set_a_non_dev_environment(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("\n".join(f"{name}={value}" for name, value in PRODUCTION.items()))
    [problem] = problems()
    assert problem.startswith("CDV_ENV: .env is read in dev only")
    environment(monkeypatch, CDV_ENV="dev")
    assert read_settings().env == "dev"


def test_a_dotenv_that_is_not_utf_8_is_a_problem_in_dev_only(monkeypatch, tmp_path):
    (tmp_path / ".env").write_bytes(b"CDV_PORT=\xff\n")
    [problem] = problems()
    assert problem.startswith(".env: cannot be read as UTF-8")
    environment(monkeypatch, **PRODUCTION)
    assert read_settings().env == "prod"


def test_secrets_are_masked(monkeypatch):
    environment(
        monkeypatch,
        CDV_DB_DSN="postgresql://cdv:hunter2@db/cdv",
        CDV_S3_ACCESS_KEY="access-hunter2",
        CDV_S3_SECRET_KEY="secret-hunter2",
        CDV_NATS_CREDS="creds-hunter2",
        CDV_NATS_URL="nats://u:hunter2@nats",
        CDV_RATE_LIMIT_STORAGE="redis://:hunter2@redis:6379",
        CDV_ALLOWED_MIME_TYPES="image/png,image/gif",
    )
    settings = read_settings()
    shown = masked(settings)
    assert "hunter2" not in str(shown) + repr(settings)
    assert shown["CDV_DB_DSN"] == "**********"
    assert shown["CDV_ALLOWED_MIME_TYPES"] == "image/png,image/gif"
    assert shown["CDV_SPECS_URL"] == ""


def test_masked_settings_include_derived_values(monkeypatch):
    assert [masked(read_settings())[name] for name in ("CDV_JWT_AUDIENCE", "CDV_JWKS_URL")] == ["cdv", ""]

    environment(monkeypatch, CDV_JWT_ISSUER="https://issuer.example/")
    assert masked(read_settings())["CDV_JWKS_URL"] == "https://issuer.example/.well-known/jwks.json"

    environment(monkeypatch, CDV_JWKS_URL="https://issuer.example/keys", CDV_JWT_AUDIENCE="theirs")
    shown = masked(read_settings())
    assert [shown["CDV_JWT_AUDIENCE"], shown["CDV_JWKS_URL"]] == ["theirs", "https://issuer.example/keys"]


def test_unknown_cdv_variables_are_found():
    names = {"CDV_PORT": "", "CDV_MAX_BODY_BYTE": "", "PATH": "", "CDV_TEST_NATS_URL": "", "CDVX": ""}
    assert unknown_variables(names) == ["CDV_MAX_BODY_BYTE"]


def test_the_configuration_page_matches_the_settings():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert markdown_table() in page, "run `cdv config --markdown` and put its output into docs/configuration.md"
    for name in Settings.model_fields:
        assert f"`CDV_{name.upper()}`" in page
