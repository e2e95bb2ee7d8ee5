"""TLS contexts for servers of a test."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def tls_server_context(ca_file: Path, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return a server's TLS context for `host`; write the certificate of its CA to `ca_file`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context
