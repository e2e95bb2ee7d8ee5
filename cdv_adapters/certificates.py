"""Checks files of certificates, private keys and CAs before they are used."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_RSA_BITS: Final = range(2048, 4097)
_SSL_REASONS: Final = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate"}


def key_problem(key: Path) -> str | None:
    """Return why the service cannot use the private key, a PEM file; None if it can."""
    try:
        loaded = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        return error.strerror or str(error)
    except TypeError:  # raised by cryptography if a password is needed
        return "it is encrypted; give it without a password"
    except (ValueError, UnsupportedAlgorithm):
        return "it holds no private key in PEM"
    # OpenSSL, which checks the files here, accepts more key types than the server's TLS library, which would crash.
    match loaded:
        case ed25519.Ed25519PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return None
        case rsa.RSAPrivateKey(key_size=size) if size in _RSA_BITS:
            return None
    return "only Ed25519, P-256, P-384, and RSA of 2048 to 4096 bits can be served with"


def certificate_problem(cert: Path, key: Path) -> str | None:
    """Return why the service cannot use the certificate chain, a PEM file, with this valid key; None if it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        return _SSL_REASONS.get(error.reason, f"it holds no certificates in PEM ({error.reason or 'unreadable'})")
    except OSError as error:
        return error.strerror or str(error)
    return None


def authority_problem(authority: Path) -> str | None:
    """Return why the PEM file cannot be used as CAs that verify certificates; None if it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authority)
    except ssl.SSLError:
        return "it holds no certificates in PEM"
    except OSError as error:
        return error.strerror or str(error)
    return None
