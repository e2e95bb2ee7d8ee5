"""deploy/kubernetes is valid, keeps our rules, and gives settings that the service starts with."""

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
from tests.deploy.staging import moved_to, ready, secret_files, standing_in
from tests.docs.pages import blocks
from tests.servers import Bucket

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.33", "1.37")  # the oldest that has all we use, and the newest there are schemas for
MOUNTED = "/run/secrets/cdv/"
CONNECTIONS_MAX = 100 - 3  # Postgres's default, less those that it keeps for superusers

MANIFESTS: dict[str, dict[str, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
}
DEPLOYMENT = MANIFESTS["deployment.yaml"]
PODS = {name: MANIFESTS[name]["spec"]["template"] for name in ("deployment.yaml", "job.yaml")}
SETTINGS = dict(line.split("=", 1) for line in (FOLDER / "config" / "cdv.env").read_text(encoding="utf-8").splitlines())


def seconds(name: str) -> float:
    return float(SETTINGS.get(name, Settings.model_fields[name.removeprefix("CDV_").lower()].default))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name in MANIFESTS if name != "podmonitor.yaml"])
def test_the_manifest_is_what_kubernetes_knows(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    wrong = {**MANIFESTS["service.yaml"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_is_used() -> None:
    named = {
        resource
        for path in FOLDER.rglob("kustomization.yaml")
        for resource in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]
        if resource.endswith(".yaml")
    }
    assert named == set(MANIFESTS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("part", ["migration", "service"])
def test_kustomize_puts_it_together(part: str) -> None:
    ended = subprocess.run(["kubectl", "kustomize", FOLDER / part], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(ended.stdout))
    (config,) = (it for it in made if it["kind"] == "ConfigMap")
    (pod,) = (it["spec"]["template"]["spec"] for it in made if it["kind"] in {"Deployment", "Job"})
    assert config["data"] == SETTINGS
    for container in pod["containers"]:
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        assert re.fullmatch(r"creator-data-vault:\d+\.\d+\.\d+", container["image"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("part", ["migration", "service"])
def test_the_overlay_of_the_page_gives_its_names(part: str, tmp_path: Path) -> None:
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
    made = {it["kind"]: it for it in yaml.safe_load_all(ended.stdout)}
    assert {it["metadata"]["namespace"] for it in made.values()} == {"vault"}
    pod = made["Deployment" if part == "service" else "Job"]["spec"]["template"]["spec"]
    assert [it["image"] for it in pod["containers"]] == ["registry.example.com/creator-data-vault:0.1.0"]
    changed = {name: value for name, value in made["ConfigMap"]["data"].items() if SETTINGS[name] != value}
    assert set(changed) == {"CDV_S3_ENDPOINT", "CDV_JWT_ISSUER", "CDV_TRUSTED_PROXIES"}
    assert made["NetworkPolicy"]["spec"] == policy["spec"]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_may_do_no_more_than_it_must(pod: dict[str, Any]) -> None:
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
        assert {it["mountPath"] for it in container["volumeMounts"]} <= {"/data", "/tmp", MOUNTED.rstrip("/")}


def test_the_user_is_the_images() -> None:
    dockerfile = (FOLDER.parent / "Dockerfile").read_text(encoding="utf-8")
    for pod in PODS.values():
        context = pod["spec"]["securityContext"]
        assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile


def test_each_probe_asks_what_it_is_for() -> None:
    (container,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    # Liveness must not depend on others: a database that is down would have every pod killed.
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["timeoutSeconds"] >= 3  # it pings for up to two


def test_nothing_under_way_is_cut_off() -> None:
    spec = DEPLOYMENT["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container["readinessProbe"]
    assert waits >= 5
    assert spec["terminationGracePeriodSeconds"] >= waits + seconds("CDV_SHUTDOWN_GRACE") + 5
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 15
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_kubernetes_adds_no_variables_that_look_like_settings() -> None:
    """For a Service named cdv it would: CDV_PORT=tcp://..., which is a setting of ours, and no port."""
    assert MANIFESTS["service.yaml"]["metadata"]["name"] == "cdv"
    assert not DEPLOYMENT["spec"]["template"]["spec"]["enableServiceLinks"]
    assert not MANIFESTS["job.yaml"]["spec"]["template"]["spec"]["enableServiceLinks"]


def test_the_database_has_connections_for_all_that_may_run() -> None:
    pods = MANIFESTS["horizontalpodautoscaler.yaml"]["spec"]["maxReplicas"] + 1  # the one of a rollout
    assert pods * seconds("CDV_WORKERS") * seconds("CDV_DB_POOL_SIZE") <= CONNECTIONS_MAX


def test_whoever_selects_the_pods_finds_them_and_not_the_migration() -> None:
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


def test_no_traffic_is_allowed_from_or_to_just_anywhere() -> None:
    policy = MANIFESTS["networkpolicy.yaml"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["ingress"] + policy["egress"]:
        assert rule["ports"]
        for peer in rule.get("from") or rule["to"]:
            assert "namespaceSelector" in peer or "169.254.0.0/16" in peer["ipBlock"]["except"]
            assert peer.get("namespaceSelector") != {}


def test_every_setting_is_one_and_every_secret_comes_from_a_file() -> None:
    assert unknown_variables(SETTINGS) == []
    assert SETTINGS["CDV_ENV"] == "prod"
    for name in ("CDV_S3_ACCESS_KEY", "CDV_S3_SECRET_KEY", "CDV_NATS_CREDS", "CDV_RATE_LIMIT_STORAGE"):
        assert SETTINGS[name].startswith(f"file:{MOUNTED}")
    listed = (FOLDER.parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    (command,) = (block for block in blocks("docs/deployment.md", "text") if "create secret" in block)
    assert sorted(re.findall(r"--from-file=(\S+)", command)) == sorted(secret_files(SETTINGS, MOUNTED))
    for file in secret_files(SETTINGS, MOUNTED):
        assert f"`{file}`" in listed


def test_the_settings_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = moved_to(tmp_path, SETTINGS, MOUNTED)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = read_settings()
    assert all(getattr(read, name.removeprefix("CDV_").lower()) is not None for name in given)


async def test_the_service_serves_with_these_settings(
    tmp_path: Path, postgres_dsn: str, nats_url: str, s3_bucket: Bucket
) -> None:
    with standing_in(
        tmp_path / "secrets", SETTINGS, MOUNTED, dsn=postgres_dsn, nats_url=nats_url, bucket=s3_bucket
    ) as vault:
        assert ready(vault.url) == {
            "database": True,
            "object_store": True,
            "issuer": True,
            "events": True,
            "rate_limits": False,  # nothing stands in for Redis here, and the service serves without it
        }
