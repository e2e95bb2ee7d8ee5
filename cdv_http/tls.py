"""The certificate that the service shows, and its clients' authority: proved before use, and watched afterwards."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cdv_adapters.settings import Settings
from cdv_core.errors import CannotStart

_LOOK_EVERY_SECONDS: Final = 1.0  # ours: a renewal is seen after two looks
_RSA_BITS: Final = range(2048, 4097)
_SSL_REASONS: Final = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate"}

_Stamp = tuple[tuple[int, int, int] | None, ...]


def prove_certificates(settings: Settings) -> None:
    """Return if the files that the settings name can be served with, or if they name none.

    Raises: CannotStart: a file is unreadable or no PEM of its kind, or the key is not the certificate's.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _or_cannot_start(f"use the key {settings.tls_key}", "CDV_TLS_KEY"):
        _require_usable(_read_key(settings.tls_key))
    with _or_cannot_start(f"use the certificate {settings.tls_cert}", "CDV_TLS_CERT, CDV_TLS_KEY"):
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if settings.tls_client_ca is not None:
        with _or_cannot_start(f"trust the authority {settings.tls_client_ca}", "CDV_TLS_CLIENT_CA"):
            context.load_verify_locations(settings.tls_client_ca)


def certificate_expiry(path: Path) -> float:
    """Return when the first of the certificates in the file ends, in seconds since 1970."""
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(path.read_bytes())).timestamp()


def _read_key(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except TypeError:  # how cryptography asks for a password
        raise ValueError("it is encrypted; give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it holds no private key in PEM") from None


def _require_usable(key: object) -> None:
    # OpenSSL, which looks at the files here, takes more kinds than the server's library, which would fall over.
    match key:
        case ed25519.Ed25519PrivateKey():
            return
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return
        case rsa.RSAPrivateKey(key_size=size) if size in _RSA_BITS:
            return
    raise ValueError("only Ed25519, P-256, P-384, and RSA of 2048 to 4096 bits can be served with")


@contextmanager
def _or_cannot_start(doing: str, settings: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        reason = _SSL_REASONS.get(error.reason, f"not PEM of its kind ({error.reason or 'unreadable'})")
        raise CannotStart(doing, reason, f"correct {settings}") from error
    except OSError as error:
        raise CannotStart(doing, error.strerror or str(error), f"correct {settings}") from error
    except ValueError as error:
        raise CannotStart(doing, str(error), f"correct {settings}") from error


class CertificateWatch:
    """Calls `renewed` when the files have changed and are at rest, from a thread of its own, until closed."""

    def __init__(self, settings: Settings, renewed: Callable[[], None]) -> None:
        self._files = [path for path in (settings.tls_cert, settings.tls_key, settings.tls_client_ca) if path]
        self._renewed = renewed
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="certificates", daemon=True)

    def __enter__(self) -> None:
        if self._files:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._files:
            self._thread.join()

    def _watch(self) -> None:
        served = last = self._stamp()
        while not self._closed.wait(_LOOK_EVERY_SECONDS):
            now = self._stamp()
            # Whoever renews writes several files, one after the other: wait until two looks see the same.
            if now == last != served:
                served = now
                self._renewed()
            last = now

    def _stamp(self) -> _Stamp:
        return tuple(_file_stamp(path) for path in self._files)


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()  # of what a link leads to: orchestrators swap links
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
