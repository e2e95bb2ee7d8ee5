"""No secret in any log: a pytest plugin that registers the run's secrets, and searches the logs for them.

Secrets are registered where they are created: tokens, signed URLs and issuers' keys automatically, the passwords and
keys of servers in the few places that make them (`secret`). What is searched: every log line of this process from the
debug level on, whatever handlers a test sets up, and the logs of the processes that tests start (`log_file`,
`printed`).
The last test of each process fails at its teardown if a secret is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import re2
from loguru import logger

# Secrets are found by a part of them; 20 random characters occur nowhere else.
_PART_CHARS: Final = 20
_SECRET_MIN_CHARS: Final = 12  # shorter ones are made up by tests, and may occur anywhere
_SHOWN_MAX: Final = 10
_LOG_FORMAT: Final = "{level} {message} {extra}"


@dataclass
class LeakSearch:
    """Secrets, each with what it is, and logs to search for them."""

    secrets: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    files: dict[Path, None] = field(default_factory=dict)

    def add(self, secret: str, what: str) -> None:
        if len(secret) >= _SECRET_MIN_CHARS:
            self.secrets[secret[-_PART_CHARS:]] = what

    def found(self) -> list[str]:
        """Return the lines that hold a secret, the secret replaced by what it is."""
        if not self.secrets:
            return []
        options = re2.Options()
        options.max_mem = 1 << 28  # its automaton has a state per character of the secrets
        # What precedes the part belongs to the secret too, and is masked with it.
        secrets = re2.compile(rf"[\w+/=.-]*({'|'.join(map(re2.escape, self.secrets))})", options=options)
        logs = ["".join(self.lines), *(file.read_text("utf-8", "replace") for file in self.files if file.exists())]
        return [
            secrets.sub(lambda match: f"<{self.secrets[match.group(1)]}>", line)
            for log in logs
            if secrets.search(log)
            for line in log.splitlines()
            if secrets.search(line)
        ]


_search: Final = LeakSearch()


def secret(value: str, what: str) -> str:
    """Register `value` as a secret that no log may contain, each of its lines; return it."""
    for line in value.splitlines():
        _search.add(line, what)
    return value


def signed_url(url: str) -> str:
    """Register the signature of `url` as a secret; return the URL."""
    parts = urlsplit(url)
    for signature in parse_qs(parts.query).get("X-Amz-Signature", []):
        secret(signature, "the signature of an S3 URL")
    if parts.path.startswith("/v1/blobs/"):
        secret(parts.path.rpartition(".")[2], "the signature of a URL of the vault's own")
    return url


def log_file(path: Path) -> Path:
    """Have that log searched when the run ends; return it."""
    _search.files[path] = None
    return path


def printed(text: str) -> str:
    """Have what a program printed searched when the run ends; return it."""
    _search.lines.append(f"{text}\n")
    return text


@pytest.fixture(scope="session", autouse=True)
def no_secret_in_any_log() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        _watch_secrets(patch)
        _watch_logs(patch)
        yield
    if found := _search.found():
        pytest.fail("\n".join(["secrets in logs:", *found[:_SHOWN_MAX]]), pytrace=False)


def _watch_secrets(patch: pytest.MonkeyPatch) -> None:
    # Imported late, because coverage counts only what is imported after it has started.
    from minio import Minio

    from cdv_adapters.blobs.url_tokens import UrlTokens
    from cdv_adapters.tokens.local_key import LocalIssuer

    def register_results_of(owner: type, name: str, register: Callable[[Any], object]) -> None:
        original = getattr(owner, name)

        def registering(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            register(result)
            return result

        patch.setattr(owner, name, registering)

    register_results_of(LocalIssuer, "issue", lambda token: secret(token.rpartition(".")[2], "a token"))
    register_results_of(
        UrlTokens, "sign", lambda token: secret(token.rpartition(".")[2], "the signature of a URL of the vault's own")
    )
    register_results_of(Minio, "get_presigned_url", signed_url)
    made = LocalIssuer.__init__

    def make(self: LocalIssuer, key: Any, **options: Any) -> None:
        made(self, key, **options)
        secret(str(key.as_dict(private=True)["d"]), "an issuer's private key")

    patch.setattr(LocalIssuer, "__init__", make)


def _watch_logs(patch: pytest.MonkeyPatch) -> None:
    core: Any = type(logger)
    remove = core.remove

    def collect() -> None:
        logger.add(_search.lines.append, format=_LOG_FORMAT, level=0, diagnose=False, backtrace=False)

    def removed(self: Any, handler_id: int | None = None) -> None:
        remove(self, handler_id)
        if handler_id is None:  # of all handlers, as the service does when it sets up its own
            collect()

    patch.setattr(core, "remove", removed)
    collect()

    # Imported late, as above. Some lines bypass loguru.
    from cdv_http import logs

    put = logs._put

    def recorded(line: str) -> None:
        _search.lines.append(line)
        put(line)

    patch.setattr(logs, "_put", recorded)
