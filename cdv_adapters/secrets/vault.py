"""Secrets in HashiCorp Vault or OpenBao, version 2 of its key-value engine: `vault:<mount>/<path>#<field>`.

Configured by the same environment variables as Vault's own tools:

- `VAULT_ADDR`; `VAULT_CACERT` (PEM; default: the system's CAs); `VAULT_NAMESPACE`.
- One login method: `VAULT_TOKEN`; or `VAULT_ROLE_ID` and `VAULT_SECRET_ID` (AppRole, mounted at `VAULT_APPROLE_MOUNT`,
  default `approle`); or `VAULT_K8S_ROLE` (the pod's service account; mounted at `VAULT_K8S_MOUNT`, default
  `kubernetes`).
"""

from __future__ import annotations

import math
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
import msgspec
import stamina
import urllib3
from urllib3.exceptions import HTTPError

from cdv_adapters.http_pool import BodyRefused, http_pool, read_body
from cdv_core.errors import InvalidField, Unavailable

PREFIX: Final = "vault:"
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # Kubernetes mounts it there
_REFERENCE: Final = re.compile(r"vault:(?P<mount>[^/#\s]+)/(?P<path>[^#\s]+)#(?P<field>[^#\s]+)")
_TIMEOUT: Final = urllib3.Timeout(connect=2, read=3)  # ours; for the response head, then for each chunk of the body
_BODY_SECONDS: Final = 3.0  # ours; after that, free the thread and the connection
_CONCURRENCY: Final = 4  # ours: concurrent requests
_RESPONSE_MAX_BYTES: Final = 1024 * 1024  # ours; Vault's own limit for a secret is about the same
_RENEW_AT: Final = 0.8  # log in again after this share of a token's lifetime
# Sealed or starting, without a leader, rate-limited, or a lagging replica (412): worth a retry.
_TRANSIENT: Final = frozenset({412, 429, 500, 502, 503, 504})


class _Secret(msgspec.Struct):
    data: dict[str, Any]


class _SecretResponse(msgspec.Struct):
    data: _Secret


class _Auth(msgspec.Struct):
    client_token: str
    lease_duration: int  # seconds; 0: does not expire


class _LoginResponse(msgspec.Struct):
    auth: _Auth


_Shape = TypeVar("_Shape", _SecretResponse, _LoginResponse)


class VaultRefused(Exception):
    """Vault rejected the request, or its response is invalid. `doing` names the request without any secret."""

    def __init__(self, doing: str, status: int | None = None, reason: str = "") -> None:
        super().__init__(f"{doing}: {reason or f'status {status}'}")
        self.status = status


class VaultSecrets:
    """A SecretSource that reads from Vault at every call. It logs in again before its token expires, or if that is
    rejected.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        service_account_token: Path = SERVICE_ACCOUNT_TOKEN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises InvalidField: no address, no login method, or a CA file that cannot be read."""
        self._address = environ.get("VAULT_ADDR", "").rstrip("/")
        if not self._address.startswith(("http://", "https://")):
            raise InvalidField("VAULT_ADDR", "needed for vault: references, an http:// or https:// address")
        ca_file = environ.get("VAULT_CACERT") or None
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise InvalidField("VAULT_CACERT", f"{ca_file} cannot be read as PEM certificates") from error
        self._token = environ.get("VAULT_TOKEN", "")
        self._login = None if self._token else self._login_of(environ, service_account_token)
        self._namespace = {"X-Vault-Namespace": environ["VAULT_NAMESPACE"]} if environ.get("VAULT_NAMESPACE") else {}
        self._pool = http_pool(maxsize=_CONCURRENCY, ssl_context=context, timeout=_TIMEOUT, retries=False)
        self._monotonic = monotonic
        self._log_in_at = -math.inf
        self._lock = threading.Lock()
        self._limiter = anyio.CapacityLimiter(_CONCURRENCY)  # not the default limiter, which other work may exhaust

    def _login_of(self, environ: Mapping[str, str], service_account_token: Path) -> Callable[[], _Auth]:
        if environ.get("VAULT_ROLE_ID"):
            mount = environ.get("VAULT_APPROLE_MOUNT", "approle")
            credentials = {"role_id": environ["VAULT_ROLE_ID"], "secret_id": environ.get("VAULT_SECRET_ID", "")}
            return lambda: self._log_in(mount, credentials)
        if environ.get("VAULT_K8S_ROLE"):
            role, k8s_mount = environ["VAULT_K8S_ROLE"], environ.get("VAULT_K8S_MOUNT", "kubernetes")
            # Read at each login: Kubernetes rotates it every hour.
            return lambda: self._log_in(
                k8s_mount, {"role": role, "jwt": service_account_token.read_bytes().decode(errors="replace").strip()}
            )
        raise InvalidField("VAULT_TOKEN", "needed for vault: references, or VAULT_ROLE_ID, or VAULT_K8S_ROLE")

    async def get(self, reference: str) -> str:
        """Return the field of the secret's latest version.

        Raises: InvalidField: not of the form above. Unavailable: Vault did not respond after three attempts, denied
        access, or has no such secret or field, or the field holds no text; the cause says which.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None or {"", ".", ".."} & {match["mount"], *match["path"].split("/")}:
            raise InvalidField("secret reference", "not vault:<mount>/<path>#<field>")
        try:
            async for attempt in stamina.retry_context(
                on=_is_transient, attempts=3, timeout=10, wait_initial=0.2, wait_max=1
            ):
                with attempt:
                    fields = await anyio.to_thread.run_sync(
                        self._read, match["mount"], match["path"], limiter=self._limiter
                    )
        except (HTTPError, OSError, VaultRefused) as error:
            raise Unavailable("secret_source") from error
        secret = fields.get(match["field"])
        if not isinstance(secret, str) or not secret:
            raise Unavailable("secret_source") from VaultRefused(
                f"reading {reference}", reason="no such field, or no text in it"
            )
        return secret

    def _read(self, mount: str, path: str) -> dict[str, Any]:
        doing = f"reading {mount}/{path}"
        url = f"/v1/{quote(mount)}/data/{quote(path)}"
        token = self._valid_token()
        try:
            response = self._request(doing, "GET", url, token=token)
        except VaultRefused as refused:
            if refused.status != 403 or self._login is None:
                raise
            # The token may have been revoked, or be unknown to a Vault that was restored from a backup.
            response = self._request(doing, "GET", url, token=self._valid_token(renew=True))
        return _decoded(response, _SecretResponse, doing).data.data

    def _valid_token(self, *, renew: bool = False) -> str:
        with self._lock:
            if self._login is not None and (renew or self._monotonic() >= self._log_in_at):
                auth = self._login()
                self._token = auth.client_token
                self._log_in_at = self._monotonic() + (auth.lease_duration or math.inf) * _RENEW_AT
            return self._token

    def _log_in(self, mount: str, credentials: dict[str, str]) -> _Auth:
        doing = f"logging in at {mount}"
        response = self._request(doing, "POST", f"/v1/auth/{quote(mount)}/login", body=credentials)
        return _decoded(response, _LoginResponse, doing).auth

    def _request(self, doing: str, method: str, path: str, *, token: str = "", body: object = None) -> bytes:
        headers = {"X-Vault-Request": "true", **self._namespace}
        if token:
            headers["X-Vault-Token"] = token
        content = None if body is None else msgspec.json.encode(body)
        with self._pool.request(
            method, self._address + path, headers=headers, body=content, redirect=False, preload_content=False
        ) as response:
            # Redirects are rejected like any other status: following one would send our token to another host.
            if response.status != 200:
                raise VaultRefused(doing, response.status)
            try:
                deadline = time.monotonic() + _BODY_SECONDS
                return read_body(response, max_bytes=_RESPONSE_MAX_BYTES, deadline=deadline)
            except BodyRefused as error:
                raise VaultRefused(doing, reason=str(error)) from error


def _decoded(content: bytes, shape: type[_Shape], doing: str) -> _Shape:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.MsgspecError as error:
        raise VaultRefused(doing, reason="the response is not one of Vault's") from error


def _is_transient(error: Exception) -> bool:
    return isinstance(error, HTTPError) or (isinstance(error, VaultRefused) and error.status in _TRANSIENT)
