"""What a run is given: the target, its means, and how long to look."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from conformance.http.catalogue import Catalogue
from conformance.http.servers import Issuer
from conformance.http.tokens import TokenSource


@dataclass
class Plan:
    """One run. What is None or empty is not there, and what needs it is not judged."""

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
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)  # of an https:// target's certificate
