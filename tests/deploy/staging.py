"""Runs the service with the settings of a deployment, only with other addresses, on the servers of the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from conformance.http.servers import Issuer, serving
from conformance.http.tokens import Key
from deploy.development_secrets import make
from tests.chaos.replica import Replica
from tests.leaks import secret
from tests.servers import Bucket


def secret_files(settings: Mapping[str, str], where: str) -> set[str]:
    """Return the names of the files in the folder `where` that the settings refer to."""
    return set(re.findall(rf"{re.escape(where)}([\w.-]+)", "\n".join(settings.values())))


def moved_to(folder: Path, settings: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the settings of the service, with the files that are mounted at `where` created in `folder` instead."""
    make(folder)
    for name in secret_files(settings, where):
        if not (folder / name).exists():
            (folder / name).write_bytes((folder / "ca.pem").read_bytes())
    return {name: value.replace(where, f"{folder}/") for name, value in settings.items() if name.startswith("CDV_")}


@contextmanager
def served_with(
    folder: Path, settings: Mapping[str, str], where: str, *, dsn: str, nats_url: str, bucket: Bucket
) -> Iterator[Replica]:
    """Serve with the settings of a deployment; its secrets, mounted at `where`, are created in `folder` instead."""
    moved = moved_to(folder, settings, where)
    database = conninfo_to_dict(dsn)
    values = {
        "db": str(database["password"]),
        "access": bucket.access_key,
        "secret": bucket.secret_key,
        "rate": "redis://127.0.0.1:1",  # unreachable, so that each process counts alone
    }
    for name in secret_files(settings, where):
        file = folder / name
        for kind, value in values.items():
            if kind in name and not name.endswith(".pem"):
                file.unlink(missing_ok=True)
                file.write_text(f"{value}\n")
                secret(value, f"the secret {name}")
    address = {name: database[name] for name in ("host", "port", "dbname", "user")}
    moved["CDV_DB_DSN"] = make_conninfo(moved["CDV_DB_DSN"], **address, sslmode="disable", sslrootcert=None)
    for name in ("CDV_NATS_CREDS", "CDV_NATS_CA", "CDV_NATS_REPLICAS"):
        moved.pop(name, None)  # a single broker without authentication
    issuer = Issuer()
    issuer.publish(Key.read(folder / "issuer-key.json"))
    with serving(issuer, 0) as url:
        moved |= {
            "CDV_HOST": "127.0.0.1",
            "CDV_S3_ENDPOINT": bucket.endpoint,
            "CDV_S3_BUCKET": bucket.name,
            "CDV_NATS_URL": nats_url,
            "CDV_JWKS_URL": url + Issuer.PATH,
        }
        with Replica(folder, moved) as replica:
            yield replica


def ready(url: str) -> dict[str, bool]:
    """Return whether each dependency is up, by name; fails if the service is not ready."""
    answer = httpx.get(f"{url}/readyz").raise_for_status().json()["data"]
    return {each["name"]: each["up"] for each in answer["dependencies"]}


def write(url: str, did: str, token: str) -> str:
    """Create a record; return its URI."""
    record = {"did": did, "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}/v1/repo/record", json=record, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["uri"])
