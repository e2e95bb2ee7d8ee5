"""Invalid and forbidden settings are refused, and all problems are reported together."""

import re

import pytest

from cdv_adapters.settings import read_settings
from tests.adapters.environments import PRODUCTION, clean_environment, environment, problems

__all__ = ["clean_environment"]  # the fixture


@pytest.mark.parametrize("name", sorted(set(PRODUCTION) - {"CDV_ENV"}))
def test_a_blank_value_of_a_required_setting_counts_as_missing(monkeypatch, name):
    environment(monkeypatch, **PRODUCTION | {name: " "})
    assert problems() == (f"{name}: required when CDV_ENV is prod",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CDV_ENV", "production"),
        ("CDV_PORT", "0"),
        ("CDV_PORT", "65536"),
        ("CDV_PORT", "http"),
        ("CDV_MAX_BODY_BYTES", "lots"),
        ("CDV_MAX_BODY_BYTES", "0"),
        ("CDV_NATS_MAX_BYTES", "9999999TiB"),  # NATS counts in 64 bits
        ("CDV_MAX_BODY_BYTES", "1.5"),
        ("CDV_MAX_BODY_BYTES", "8bit"),
        ("CDV_MAX_BODY_BYTES", "1_000"),
        ("CDV_MAX_BODY_BYTES", "\N{ARABIC-INDIC DIGIT FIVE}"),
        ("CDV_MAX_BODY_BYTES", "9" * 20),
        ("CDV_REQUEST_TIMEOUT", "\N{ARABIC-INDIC DIGIT FIVE}"),
        ("CDV_NATS_REPLICAS", "\N{ARABIC-INDIC DIGIT THREE}"),
        ("CDV_MAX_MEDIA_SIZE", "-1"),
        ("CDV_MAX_MEDIA_SIZE", "5368709121"),
        ("CDV_MAX_MEDIA_SIZE", "9223372036854775808"),
        ("CDV_S3_BUCKET", "B_!/x"),
        ("CDV_S3_BUCKET", "ab"),
        ("CDV_S3_BUCKET", "media..x"),
        ("CDV_S3_BUCKET", "-media"),
        ("CDV_S3_BUCKET", "media.-x"),
        ("CDV_S3_BUCKET", "192.168.0.1"),
        ("CDV_RATE_LIMIT_WRITES", "600"),
        ("CDV_RATE_LIMIT_READS", "0/minute"),
        ("CDV_REQUEST_TIMEOUT", "0"),
        ("CDV_SHUTDOWN_GRACE", "soon"),
        ("CDV_SHUTDOWN_GRACE", "inf"),
        ("CDV_SHUTDOWN_GRACE", "1e12"),
        ("CDV_REQUEST_TIMEOUT", "nan"),
        ("CDV_NATS_MAX_AGE", "inf"),
        ("CDV_NATS_ACK_WAIT", "1e300"),
        ("CDV_WORKERS", "0"),
        ("CDV_NATS_REPLICAS", "2"),
        ("CDV_NATS_REPLICAS", "three"),
        ("CDV_READ_AUTH", "yes"),
        ("CDV_REJECT_DEPRECATED_SCHEMAS", "perhaps"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://app.example.com/"),
        ("CDV_CORS_ALLOWED_ORIGINS", "app.example.com"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://*"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://*.example.com"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://u:p@app.example.com"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://app example.com"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://app.example.com:99999"),
        ("CDV_CORS_ALLOWED_ORIGINS", "https://app.example.com?"),
        ("CDV_CORS_ALLOWED_ORIGINS", "ftp://app.example.com"),
        ("CDV_ALLOWED_MIME_TYPES", ","),
        ("CDV_ALLOWED_MIME_TYPES", "junk"),
        ("CDV_ALLOWED_MIME_TYPES", "image/png,image/*"),
        ("CDV_ALLOWED_MIME_TYPES", "text/plain; charset=utf-8"),
        ("CDV_TRUSTED_PROXIES", "proxy.example.com"),
        ("CDV_S3_ENDPOINT", "s3.example.com"),
        ("CDV_S3_ENDPOINT", "http://s3.example.com:99999"),
        ("CDV_S3_ENDPOINT", "http://[::1"),
        ("CDV_S3_ENDPOINT", "https://s3.example.com/media"),
        ("CDV_SPECS_URL", "https://[::1"),
        ("CDV_SPECS_URL", "ftp://example.com/x"),
        ("CDV_SPECS_URL", "file:relative"),
        ("CDV_SPECS_URL", "file://host/specs"),
        ("CDV_SPECS_URL", "https://example.com/specs?x=1"),
        ("CDV_NATS_URL", "nats://h:99999"),
        ("CDV_NATS_URL", "nats://h:abc"),
        ("CDV_NATS_URL", "nats://"),
        ("CDV_NATS_URL", "nats://a b"),
        ("CDV_NATS_URL", "a,,b"),
        ("CDV_RATE_LIMIT_STORAGE", "foo://host"),
        ("CDV_PORT", "8_0"),
        ("CDV_WORKERS", "1_0"),
        ("CDV_TLS_CERT", "/nowhere/cert.pem"),
        ("CDV_S3_ACCESS_KEY", "alone"),
        ("CDV_JWT_ISSUER", "junk"),
        ("CDV_JWT_ISSUER", "urn:x"),
        ("CDV_DB_DSN", "file:relative"),
        ("CDV_NATS_CREDS", "file:"),
        ("CDV_DB_DSN", "vault:"),
        ("CDV_NATS_URL", "vault:kv/cdv"),
        ("CDV_S3_SECRET_KEY", "vault:kv#field"),
        ("CDV_S3_SECRET_KEY", "awskms:"),
        ("CDV_RATE_LIMIT_STORAGE", "awskms:junk!"),
        ("CDV_RATE_LIMIT_STORAGE", "junk"),
        ("CDV_RATE_LIMIT_STORAGE", "redis"),
    ],
)
def test_an_invalid_value_is_a_problem_that_names_its_variable(monkeypatch, name, value):
    environment(monkeypatch, **{name: value})
    assert any(problem.startswith(name) for problem in problems())


@pytest.mark.parametrize("name", ["CDV_S3_ENDPOINT", "CDV_JWKS_URL", "CDV_SPECS_URL"])
@pytest.mark.parametrize("user_info", ["hunter2", "u:hunter2", ":hunter2"])
def test_an_address_with_credentials_is_refused_without_repeating_them(monkeypatch, name, user_info):
    environment(monkeypatch, CDV_S3_BUCKET="media", CDV_JWT_ISSUER="https://id.example.com")
    environment(monkeypatch, **{name: f"https://{user_info}@example.com"})
    assert problems() == (f"{name}: an address with a user or a password in it; leave them out",)


def test_all_problems_are_reported_together(monkeypatch):
    environment(monkeypatch, CDV_ENV="prod", CDV_PORT="x", CDV_MAX_BODY_BYTES="y", CDV_CORS_ALLOWED_ORIGINS="*")
    found = problems()
    for name in ("CDV_PORT", "CDV_MAX_BODY_BYTES", "CDV_DB_DSN", "CDV_S3_ENDPOINT", "CDV_S3_BUCKET", "CDV_JWT_ISSUER",
                 "CDV_JWT_AUDIENCE", "CDV_CORS_ALLOWED_ORIGINS"):  # fmt: skip
        assert sum(re.match(f"{name}[:,]", problem) is not None for problem in found) == 1, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("CDV_S3_BUCKET", "b"), ("CDV_S3_ENDPOINT", "s3"), ("CDV_DB_DSN", "file:relative"), ("CDV_JWKS_URL", "ftp://x")],
)
def test_an_invalid_required_setting_is_not_also_reported_as_missing(monkeypatch, name, value):
    environment(monkeypatch, **PRODUCTION | {"CDV_JWT_ISSUER": "https://id.example.com", name: value})
    [problem] = problems()
    assert problem.startswith(f"{name}: ")
    assert "required" not in problem


def test_unsupported_addresses_are_reported_together(monkeypatch):
    environment(
        monkeypatch,
        CDV_DB_DSN="mysql://u:hunter2@db",
        CDV_NATS_URL="nats://a, http://u:hunter2@b",
        CDV_SPECS_URL="http://specs.example.com",
    )
    assert sorted(problems()) == [
        "CDV_DB_DSN: not a connection string of Postgres",
        "CDV_NATS_URL: not an address such as nats://host:4222",
        "CDV_SPECS_URL: http:// is for this machine's own loopback; use https://",
    ]


@pytest.mark.parametrize(
    "dsn",
    [
        "garbage",
        "postgresql://cdv:hunter2@db:port/cdv",
        "postgresql://cdv:hunter2@db:99999/cdv",
        "postgresql://cdv:hunter2@a:5432,b:0/cdv",
        "host=db password=hunter2 port=\u0663",
        f"host=db password=hunter2 port={'1' * 5000}",
        "postgresql://cdv:hunter2@db/\udcff",
        "postgresql://cdv:hunter2@db/cdv?colour=red",
        "host=db password='hunter2",
    ],
)
def test_a_connection_string_that_libpq_rejects_is_reported_with_the_other_problems(monkeypatch, dsn):
    environment(monkeypatch, CDV_DB_DSN=dsn, CDV_READ_AUTH="none")
    dsn_problem, other = problems()
    assert dsn_problem == "CDV_DB_DSN: not a connection string of Postgres"
    assert other.startswith("CDV_READ_AUTH: ")


@pytest.mark.parametrize("dsn", ["postgresql://", "postgresql://a:5432,b/cdv", "host=a,b port=5432,5433", "dbname=cdv"])
def test_a_connection_string_may_name_several_hosts_or_none(monkeypatch, dsn):
    environment(monkeypatch, CDV_DB_DSN=dsn)
    assert read_settings().db_dsn is not None


def test_outside_dev_each_production_setting_is_required(monkeypatch):
    for env in ("staging", "prod"):
        environment(monkeypatch, **PRODUCTION | {"CDV_ENV": env})
        assert read_settings().env == env
    for name in set(PRODUCTION) - {"CDV_ENV"}:
        monkeypatch.delenv(name)
        assert [problem.partition(":")[0] for problem in problems()] == [name]
        monkeypatch.setenv(name, PRODUCTION[name])


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("CDV_DB_DSN", "postgresql://cdv:hunter2@db/cdv", True),
        ("CDV_DB_DSN", "postgresql://db/cdv?user=cdv&password=hunter2", True),
        ("CDV_DB_DSN", "host=db user=cdv password = 'hunter2'", True),
        ("CDV_DB_DSN", "postgresql://cdv@db/cdv?sslpassword=hunter2", True),
        ("CDV_DB_DSN", "host=db sslpassword=hunter2", True),
        ("CDV_DB_DSN", "postgresql://db/cdv?pass%77ord=hunter2", True),
        ("CDV_DB_DSN", "postgresql://db/cdv?password=file%3A%2Frun%2Fdb", False),
        ("CDV_DB_DSN", "postgresql://db/cdv?oauth_client_secret=hunter2", True),
        ("CDV_DB_DSN", "host=db scram_client_key=hunter2", True),
        ("CDV_DB_DSN", "postgresql://cdv@db/cdv", False),
        ("CDV_DB_DSN", "postgresql://cdv:file%3A%2Frun%2Fdb@db/cdv", False),
        ("CDV_DB_DSN", "host=db user=cdv password=file:/run/db", False),
        ("CDV_DB_DSN", "vault:kv/cdv#dsn", False),
        ("CDV_NATS_URL", "nats://nats:4222", False),
        ("CDV_NATS_URL", "nats://a:4222,nats://cdv:hunter2@b:4222", True),
        ("CDV_NATS_URL", "nats://hunter2@nats", True),
        ("CDV_NATS_URL", "hunter2@nats", True),
        ("CDV_NATS_URL", "a:4222, cdv:hunter2@b:4222", True),
        ("CDV_NATS_URL", "a:4222,b:4222", False),
        ("CDV_NATS_CREDS", "hunter2", True),
        ("CDV_NATS_CREDS", "file:/run/nats.creds", False),
        ("CDV_RATE_LIMIT_STORAGE", "redis://:hunter2@redis:6379", True),
        ("CDV_RATE_LIMIT_STORAGE", "redis://redis:6379", False),
        ("CDV_S3_ACCESS_KEY", "hunter2", True),
    ],
)
def test_outside_dev_a_secret_in_plain_text_is_refused(monkeypatch, name, value, refused):
    environment(
        monkeypatch, **PRODUCTION | {"CDV_S3_ACCESS_KEY": "file:/a", "CDV_S3_SECRET_KEY": "awskms:aGk="} | {name: value}
    )
    if refused:
        [problem] = problems()
        assert problem.startswith(f"{name}: a secret in plain text")
        assert "hunter2" not in problem
    else:
        assert read_settings().env == "prod"


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("CDV_S3_ENDPOINT", "http://s3.example.com", True),
        ("CDV_S3_ENDPOINT", "http://127.0.0.1:9000", False),
        ("CDV_JWT_ISSUER", "http://id.example.com", True),
        ("CDV_JWKS_URL", "http://id.example.com/keys", True),
        ("CDV_JWKS_URL", "https://id.example.com/keys", False),
    ],
)
def test_outside_dev_plain_http_is_refused_except_to_loopback(monkeypatch, name, value, refused):
    environment(monkeypatch, **PRODUCTION | {name: value})
    if refused:
        assert problems() == (f"{name}: https:// is required when CDV_ENV is prod",)
    else:
        assert read_settings().env == "prod"


def test_an_invalid_port_is_reported_under_both_its_names(monkeypatch):
    environment(monkeypatch, PORT="http")
    [problem] = problems()
    assert problem.startswith("CDV_PORT, PORT: ")


def test_a_wildcard_cors_origin_is_allowed_in_dev_only(monkeypatch):
    environment(monkeypatch, CDV_CORS_ALLOWED_ORIGINS="*")
    assert read_settings().cors_allowed_origins == ("*",)
    environment(monkeypatch, **PRODUCTION)
    assert [problem.partition(":")[0] for problem in problems()] == ["CDV_CORS_ALLOWED_ORIGINS"]


def test_a_problem_does_not_repeat_a_secret(monkeypatch):
    environment(monkeypatch, CDV_S3_ACCESS_KEY="hunter2", CDV_PORT="x")
    assert "hunter2" not in " ".join(problems())


@pytest.mark.parametrize("name", ["CDV_S3_CA", "CDV_NATS_CA", "CDV_JWKS_CA", "CDV_TLS_CLIENT_CA"])
def test_an_invalid_ca_file_is_a_problem_at_startup(monkeypatch, tmp_path, name):
    (tmp_path / "ca.pem").write_text("junk")
    environment(monkeypatch, **{name: str(tmp_path / "ca.pem")})
    assert f"{name}: cannot use {tmp_path}/ca.pem: it holds no certificates in PEM" in problems()


def test_an_unusable_server_certificate_is_reported_with_the_other_problems(monkeypatch, tmp_path):
    (tmp_path / "cert.pem").write_text("junk")
    files = {"CDV_TLS_CERT": str(tmp_path / "cert.pem"), "CDV_TLS_KEY": str(tmp_path / "cert.pem")}
    environment(monkeypatch, **files, CDV_S3_CA="/nowhere/ca.pem", CDV_JWKS_URL="https://issuer.example/keys")
    assert problems() == (
        "CDV_S3_CA: cannot use /nowhere/ca.pem: No such file or directory",
        f"CDV_TLS_KEY: cannot use {tmp_path}/cert.pem: it holds no private key in PEM",
        "CDV_JWT_ISSUER: required with CDV_JWKS_URL",
    )
