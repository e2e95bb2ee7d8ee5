"""Make what deploy/compose.yaml keeps as files: passwords, an authority for its certificates, an issuer and its keys.

For development: who can read the folder can speak for every creator. What is there already stays.
"""

import json
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cdv_adapters.tokens.local_key import LocalIssuer

ISSUER: Final = "https://issuer.localhost:8443"
PASSWORDS: Final = ("db_password", "grafana_password", "s3_access_key", "s3_secret_key")
_LIFE: Final = timedelta(days=3650)


def make(folder: Path) -> None:
    """Make the folder and every file that is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in PASSWORDS:
        _put(folder / name, secrets.token_hex(20))
    issuer = LocalIssuer.open(folder, issuer=ISSUER, audience="cdv")
    _put(folder / "jwks.json", json.dumps(issuer.jwks()))
    if not (folder / "ca.pem").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _put(folder / "ca.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        _put(folder / "ca.pem", _authority(key).public_bytes(Encoding.PEM).decode())
    # Containers see the files with the owner and the rights that they have here, and run as users of their own: so the
    # folder keeps strangers out, and not the files.
    for path in folder.iterdir():
        path.chmod(0o444)


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CDV development authority")])
    now = datetime.now(UTC)  # noqa: TID251 - the ban is for the product
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _put(path: Path, content: str) -> None:
    if not path.exists():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
