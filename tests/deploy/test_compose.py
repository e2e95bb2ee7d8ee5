"""deploy/compose.yaml is consistent, and the service starts with its settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdv_adapters.settings import read_settings
from cdv_adapters.settings_listing import unknown_variables
from deploy.development_secrets import ISSUER, make
from tests.deploy.staging import moved_to, ready, secret_files, served_with, write
from tests.http.running import CDV
from tests.leaks import printed, secret
from tests.servers import Bucket

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, str] = SERVICES["cdv"]["environment"]
MOUNTED = "/run/secrets/"


def entries(key: str) -> list[tuple[str, Any]]:
    return [(name, entry) for name, service in SERVICES.items() for entry in service.get(key, [])]


def source(secret: str | dict[str, str]) -> str:
    return secret if isinstance(secret, str) else secret["source"]


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in SERVICES.items():
        _, colon, tag = service["image"].partition(":")
        assert colon, name
        assert "latest" not in tag
        assert "build" in service or re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), name


def test_every_setting_is_known_and_every_secret_is_a_file() -> None:
    for service in SERVICES.values():
        environment = service.get("environment", {})
        assert unknown_variables(environment) == []
        for name, value in environment.items():
            assert not re.search("PASSWORD|SECRET|KEY", name) or MOUNTED in value, name


def test_every_mounted_file_and_volume_exists() -> None:
    for name, volume in entries("volumes"):
        mounted, _, _ = volume.partition(":")
        if mounted.startswith("."):
            assert (DEPLOY / mounted).exists(), f"{name}: {mounted}"
        else:
            assert mounted in COMPOSE["volumes"], f"{name}: {mounted}"


def test_every_secret_is_created_mounted_and_used(tmp_path: Path) -> None:
    make(tmp_path)
    for name, origin in COMPOSE["secrets"].items():
        assert (tmp_path / Path(origin["file"]).name).exists(), name
    mounted = {source(entry) for _, entry in entries("secrets")}
    assert mounted == set(COMPOSE["secrets"])
    for service in SERVICES.values():
        used = secret_files({key: str(value) for key, value in service.get("environment", {}).items()}, MOUNTED)
        if "cdv" not in service.get("entrypoint", []):
            assert used <= {source(entry) for entry in service.get("secrets", [])}


def test_existing_secrets_are_kept_private_and_ignored_by_git(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o077 == 0
    assert "deploy/secrets/" in (DEPLOY.parent / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_every_service_that_is_waited_for_completes_or_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            has_health_check = "healthcheck" in SERVICES[other] or "build" in SERVICES[other]  # our image defines one
            assert ends or has_health_check, f"{name} waits for {other}"


def test_ports_are_published_on_loopback_only_and_not_by_backend_services() -> None:
    for name, port in entries("ports"):
        assert port.startswith("127.0.0.1:"), name
        assert "edge" in SERVICES[name]["networks"], name
    assert COMPOSE["networks"]["backend"]["internal"]
    for name in ("postgres", "nats", "minio", "cdv"):
        assert SERVICES[name]["networks"] == ["backend"]


def test_the_trusted_proxy_is_caddy_and_it_serves_the_configured_hosts() -> None:
    address = SERVICES["caddy"]["networks"]["backend"]["ipv4_address"]
    assert SETTINGS["CDV_TRUSTED_PROXIES"] == address
    hosts = re.findall(
        r"^https://(\S+) {", (DEPLOY / "compose" / "Caddyfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(SERVICES["caddy"]["networks"]["backend"]["aliases"]) == set(hosts)
    for url in (SETTINGS["CDV_S3_ENDPOINT"], SETTINGS["CDV_JWT_ISSUER"]):
        assert url.removeprefix("https://").removesuffix(":8443") in hosts
    assert SETTINGS["CDV_JWT_ISSUER"] == ISSUER


def test_the_stop_grace_period_exceeds_the_shutdown_grace() -> None:
    seconds = {name: float(str(service.get("stop_grace_period", "10s"))[:-1]) for name, service in SERVICES.items()}
    assert seconds["cdv"] >= float(SETTINGS["CDV_SHUTDOWN_GRACE"][:-1]) + 5


def test_the_settings_are_valid_and_all_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = moved_to(tmp_path, SETTINGS, MOUNTED)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = read_settings()
    assert all(getattr(read, name.removeprefix("CDV_").lower()) is not None for name in given)


async def test_the_service_runs_with_these_settings(
    tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket
) -> None:
    folder = tmp_path / "secrets"
    with served_with(folder, SETTINGS, MOUNTED, dsn=postgres_dsn, nats_url=nats_url, bucket=s3_bucket) as vault:
        assert ready(vault.url) == {"database": True, "object_store": True, "issuer": True, "events": True}
        token = SERVICES["token"]["entrypoint"]
        assert token[:3] == ["cdv", "token", "--issuer-key"]
        environment = {name: value.replace(MOUNTED, f"{folder}/") for name, value in SETTINGS.items()}
        ended = subprocess.run(
            [CDV, *token[1:3], token[3].replace(MOUNTED, f"{folder}/"), "--did", "did:example:ada"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert printed(ended.stderr) == ""
        written = write(vault.url, "did:example:ada", secret(ended.stdout.strip(), "a token"))
        assert written.startswith("at://did:example:ada/")
    assert "no setting" not in vault.log.read_text()


def test_prometheus_and_grafana_are_configured_for_the_service() -> None:
    scraped = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text(encoding="utf-8"))
    (targets,) = (job["dns_sd_configs"] for job in scraped["scrape_configs"] if job["job_name"] == "cdv")
    assert targets[0]["names"] == ["cdv"]
    assert f":{targets[0]['port']} {{" in (DEPLOY / "compose" / "Caddyfile").read_text(encoding="utf-8")
    inside = {volume.split(":")[1] for name, volume in entries("volumes") if name == "prometheus"}
    assert set(scraped["rule_files"]) < inside
    datasources = yaml.safe_load((DEPLOY / "compose" / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))
    assert {"prometheus", "jaeger"} == {datasource["uid"] for datasource in datasources["datasources"]}


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("promtool", ["check", "config", "--syntax-only"]), ("caddy", ["validate", "--adapter", "caddyfile", "--config"])],
)
def test_the_program_accepts_its_configuration(program: str, arguments: list[str], tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    make(tmp_path / "secrets")
    source = DEPLOY / "compose" / {"promtool": "prometheus.yaml", "caddy": "Caddyfile"}[program]
    moved = tmp_path / source.name
    moved.write_text(source.read_text(encoding="utf-8").replace(MOUNTED, f"{tmp_path}/secrets/"), encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ended = subprocess.run([program, *arguments, moved], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["migrate", "cdv", "token"])
def test_containers_of_our_image_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
