"""The environment that settings are read from, empty except for the variables that a test sets."""

import os

import pytest

from cdv_adapters.settings import SettingsRefused, read_settings

PRODUCTION = {
    "CDV_ENV": "prod",
    "CDV_DB_DSN": "file:/run/secrets/dsn",
    "CDV_S3_ENDPOINT": "https://s3.example.com",
    "CDV_S3_BUCKET": "media",
    "CDV_JWT_ISSUER": "https://id.example.com",
    "CDV_JWT_AUDIENCE": "cdv",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("CDV_") or name == "PORT":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def environment(monkeypatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def problems(**overrides: object) -> tuple[str, ...]:
    with pytest.raises(SettingsRefused) as caught:
        read_settings(**overrides)
    return caught.value.problems
