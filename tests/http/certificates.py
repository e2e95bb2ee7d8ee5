"""CAs and the certificates that they sign, as files for a service's settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from tests.leaks import secret


@dataclass
class Files:
    """A service's certificate and key in a folder, signed by `authority`."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def cert(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def issue(self) -> bytes:
        """Put a new certificate and its key in place, the key first; return the certificate, in DER."""
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        secret(issued.private_key_pem.bytes().decode().splitlines()[1], "a TLS private key")
        self.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    @property
    def settings(self) -> dict[str, str]:
        return {"CDV_TLS_CERT": str(self.cert), "CDV_TLS_KEY": str(self.key)}

    def trusting(self, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a client's TLS context that trusts the CA and presents `client` if requested."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            client.configure_cert(context)
        return context


def files(folder: Path) -> Files:
    made = Files(folder)
    made.issue()
    return made
