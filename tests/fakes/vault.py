"""HashiCorp Vault's HTTP API, as far as reading a secret needs it: KV v2, AppRole and Kubernetes logins."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.s3 import Answer, ReceivedRequest


def _json(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _errors(status: int, *errors: str) -> Answer:
    return _json(status, {"errors": list(errors)})


@dataclass
class FakeVault:
    """To be served by ScriptedS3, which works for any HTTP API, with `answer`.

    `secrets`: by namespace, mount and path. `tokens`: those that may read. `override`, if set, is every response.
    """

    secrets: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"hvs.root"})
    approles: dict[str, str] = field(default_factory=dict)  # role_id → secret_id
    service_accounts: dict[str, str] = field(default_factory=dict)  # role → jwt
    lease_seconds: int = 1200
    override: Answer | None = None
    logins: int = 0
    reads: int = 0
    requests: list[ReceivedRequest] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def answer(self, request: ReceivedRequest) -> Answer:
        self.requests.append(request)
        if self.override is not None:
            return self.override
        _, version, *parts = request.path.split("/")
        assert version == "v1"
        if parts[0] == "auth" and parts[-1] == "login":
            return self._log_in(request, "/".join(parts[1:-1]))
        return self._read(request, parts)

    def _log_in(self, request: ReceivedRequest, mount: str) -> Answer:
        if request.method != "POST":
            return _errors(405, "unsupported operation")
        given = json.loads(request.body)
        if mount.startswith("approle"):
            if self.approles.get(given["role_id"]) != given["secret_id"]:
                return _errors(400, "invalid role or secret ID")
        elif self.service_accounts.get(given["role"]) != given["jwt"]:
            return _errors(403, "permission denied")
        self.logins += 1
        token = f"hvs.{next(self._numbers)}"
        self.tokens.add(token)
        auth = {
            "client_token": token,
            "accessor": "an-accessor",
            "policies": ["default"],
            "token_policies": ["default"],
            "metadata": None,
            "lease_duration": self.lease_seconds,
            "renewable": True,
            "entity_id": "an-entity",
            "token_type": "service",
        }
        return _json(200, {"request_id": "r", "lease_id": "", "renewable": False, "data": None, "auth": auth})

    def _read(self, request: ReceivedRequest, parts: list[str]) -> Answer:
        if request.headers.get("x-vault-token") not in self.tokens:
            return _errors(403, "permission denied")
        self.reads += 1
        mount, data, *path = parts
        key = request.headers.get("x-vault-namespace", ""), mount, "/".join(path)
        if data != "data" or key not in self.secrets:
            return _errors(404)
        metadata = {"created_time": "2026-11-24T02:53:29Z", "deletion_time": "", "destroyed": False, "version": 1}
        body = {"data": self.secrets[key], "metadata": metadata}
        return _json(200, {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, "data": body})
