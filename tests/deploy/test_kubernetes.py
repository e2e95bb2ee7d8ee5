"""deploy/kubernetes is valid and keeps our rules, and the service starts with its settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cdv_adapters.settings import Settings, read_settings
from cdv_adapters.settings_listing import unknown_variables
from tests.deploy.staging import moved_to, ready, secret_files, served_with
from tests.docs.pages import blocks
from tests.servers import Bucket

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.33", "1.37")  # the oldest with all features that we use, and the newest with schemas
MOUNTED = "/run/secrets/cdv/"
CONNECTIONS_MAX = 100 - 3  # Postgres's default, less those reserved for superusers

MANIFESTS: dict[str, dict[str, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
}
DEPLOYMENT = MANIFESTS["deployment.yaml"]
PODS = {name: MANIFESTS[name]["spec"]["template"] for name in ("deployment.yaml", "job.yaml")}
SETTINGS = dict(line.split("=", 1) for line in (FOLDER / "config" / "cdv.env").read_text(encoding="utf-8").splitlines())


def number_of(name: str) -> float:
    return float(SETTINGS.get(name, Settings.model_fields[name.removeprefix("CDV_").lower()].default))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name in MANIFESTS if name != "podmonitor.yaml"])
def test_a_manifest_is_valid_for_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_validator_refuses_a_misspelt_field() -> None:
    wrong = {**MANIFESTS["service.yaml"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_manifest_is_listed_in_a_kustomization() -> None:
    named = {
        resource
        for path in FOLDER.rglob("kustomization.yaml")
        for resource in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]
        if resource.endswith(".yaml")
    }
    assert named == set(MANIFESTS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("part", ["migration", "service"])
def test_kustomize_builds_each_part(part: str) -> None:
    ended = subprocess.run(["kubectl", "kustomize", FOLDER / part], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(ended.stdout))
    (config,) = (manifest for manifest in made if manifest["kind"] == "ConfigMap")
    (pod,) = (each["spec"]["template"]["spec"] for each in made if each["kind"] in {"Deployment", "Job"})
    assert config["data"] == SETTINGS
    for container in pod["containers"]:
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        assert re.fullmatch(r"creator-data-vault:\d+\.\d+\.\d+", container["image"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("part", ["migration", "service"])
def test_the_documented_overlay_sets_namespace_image_settings_and_policy(part: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "deploy" / "kubernetes")
    for block in blocks("docs/deployment.md", "text"):
        name, _, text = block.removeprefix("# ").partition("\n")
        if name.endswith(".yaml"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
    policy = yaml.safe_load((FOLDER / "config" / "networkpolicy.yaml").read_text(encoding="utf-8"))
    policy["spec"]["ingress"] = policy["spec"]["ingress"][:1]
    (tmp_path / "vault" / "common" / "networkpolicy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    ended = subprocess.run(["kubectl", "kustomize", tmp_path / "vault" / part], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(ended.stdout)}
    assert {manifest["metadata"]["namespace"] for manifest in made.values()} == {"vault"}
    pod = made["Deployment" if part == "service" else "Job"]["spec"]["template"]["spec"]
    assert [container["image"] for container in pod["containers"]] == ["registry.example.com/creator-data-vault:0.1.0"]
    changed = {name: value for name, value in made["ConfigMap"]["data"].items() if SETTINGS[name] != value}
    assert set(changed) == {"CDV_S3_ENDPOINT", "CDV_JWT_ISSUER", "CDV_TRUSTED_PROXIES"}
    assert made["NetworkPolicy"]["spec"] == policy["spec"]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_has_least_privilege_and_resource_limits(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert not spec["automountServiceAccountToken"]
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    whole = spec["securityContext"]
    assert whole["runAsNonRoot"]
    assert whole["runAsUser"] >= 10000
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys() & container["resources"]["requests"].keys()
        assert {mount["mountPath"] for mount in container["volumeMounts"]} <= {"/data", "/tmp", MOUNTED.rstrip("/")}


def test_pods_run_as_the_user_of_the_image() -> None:
    dockerfile = (FOLDER.parent / "Dockerfile").read_text(encoding="utf-8")
    for pod in PODS.values():
        context = pod["spec"]["securityContext"]
        assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile


def test_liveness_is_probed_at_healthz_and_readiness_at_readyz() -> None:
    (container,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    # Liveness must not depend on the database: an outage of it would have every pod killed.
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["timeoutSeconds"] >= 3  # it pings for up to two


def test_a_rollout_leaves_time_for_requests_in_flight() -> None:
    spec = DEPLOYMENT["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container["readinessProbe"]
    assert waits >= 5
    assert spec["terminationGracePeriodSeconds"] >= waits + number_of("CDV_SHUTDOWN_GRACE") + 5
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 15
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_kubernetes_injects_no_service_variables() -> None:
    """For a Service named cdv it would set CDV_PORT=tcp://..., which is a setting of ours."""
    assert MANIFESTS["service.yaml"]["metadata"]["name"] == "cdv"
    assert not DEPLOYMENT["spec"]["template"]["spec"]["enableServiceLinks"]
    assert not MANIFESTS["job.yaml"]["spec"]["template"]["spec"]["enableServiceLinks"]


def test_the_pools_of_all_pods_fit_the_connection_limit_of_the_database() -> None:
    pods = MANIFESTS["horizontalpodautoscaler.yaml"]["spec"]["maxReplicas"] + 1  # the surge pod of a rollout
    assert pods * number_of("CDV_WORKERS") * number_of("CDV_DB_POOL_SIZE") <= CONNECTIONS_MAX


def test_selectors_match_the_service_pods_and_not_the_migration() -> None:
    labels, others = (PODS[name]["metadata"]["labels"] for name in PODS)
    service = MANIFESTS["service.yaml"]["spec"]["selector"]
    selectors = [DEPLOYMENT["spec"]["selector"]["matchLabels"], service]
    selectors += [
        MANIFESTS[name]["spec"]["selector"]["matchLabels"] for name in ("poddisruptionbudget.yaml", "podmonitor.yaml")
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()
    for each in (labels, others):
        assert MANIFESTS["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"].items() <= each.items()
    (container,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": int(SETTINGS["CDV_PORT"])}]


def test_every_network_policy_rule_names_ports_and_restricts_its_peers() -> None:
    policy = MANIFESTS["networkpolicy.yaml"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["ingress"] + policy["egress"]:
        assert rule["ports"]
        for peer in rule.get("from") or rule["to"]:
            assert "namespaceSelector" in peer or "169.254.0.0/16" in peer["ipBlock"]["except"]
            assert peer.get("namespaceSelector") != {}


def test_every_setting_is_known_and_every_secret_comes_from_a_file() -> None:
    assert unknown_variables(SETTINGS) == []
    assert SETTINGS["CDV_ENV"] == "prod"
    for name in ("CDV_S3_ACCESS_KEY", "CDV_S3_SECRET_KEY", "CDV_NATS_CREDS", "CDV_RATE_LIMIT_STORAGE"):
        assert SETTINGS[name].startswith(f"file:{MOUNTED}")
    listed = (FOLDER.parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    (command,) = (block for block in blocks("docs/deployment.md", "text") if "create secret" in block)
    assert sorted(re.findall(r"--from-file=(\S+)", command)) == sorted(secret_files(SETTINGS, MOUNTED))
    for file in secret_files(SETTINGS, MOUNTED):
        assert f"`{file}`" in listed


def test_the_settings_are_valid_and_all_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = moved_to(tmp_path, SETTINGS, MOUNTED)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = read_settings()
    assert all(getattr(read, name.removeprefix("CDV_").lower()) is not None for name in given)


async def test_the_service_runs_with_these_settings(
    tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket
) -> None:
    with served_with(
        tmp_path / "secrets", SETTINGS, MOUNTED, dsn=postgres_dsn, nats_url=nats_url, bucket=s3_bucket
    ) as vault:
        assert ready(vault.url) == {
            "database": True,
            "object_store": True,
            "issuer": True,
            "events": True,
            "rate_limits": False,  # nothing stands in for Redis here, and the service serves without it
        }
