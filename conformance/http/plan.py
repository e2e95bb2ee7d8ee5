"""The configuration of a run."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from conformance.http.catalogue import Catalogue
from conformance.http.servers import Issuer
from conformance.http.tokens import TokenSource


@dataclass
class Plan:
    """The configuration of one run. Requirements that need an option which is None or empty are not judged."""

    url: str
    tokens: TokenSource
    issuer: Issuer | None = None
    catalogue: Catalogue | None = None
    nats_url: str = ""
    cors_origin: str = ""
    max_body_bytes: int = 1024 * 1024  # http-api §5
    rejects_deprecated: bool = False
    profile: str = "default"
    seed: int = 0
    only: tuple[str, ...] = ()
    seconds: float = 0.0
    trust: ssl.SSLContext = field(
        default_factory=ssl.create_default_context
    )  # verifies the certificate of an https:// target
