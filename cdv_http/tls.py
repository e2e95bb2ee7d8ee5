"""The server's certificate and the CA of client certificates: checked before use, and watched for renewal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509

from cdv_adapters.settings import Settings
from cdv_core.errors import CannotStart

_POLL_SECONDS: Final = 1.0  # ours: a renewal is noticed after two polls

_Stamp = tuple[tuple[int, int, int] | None, ...]


def check_certificates(settings: Settings) -> None:
    """Check that the certificate files are usable now: they may have changed since the settings were read.

    Raises: CannotStart: they are not; names every problem.
    """
    if problems := tuple(settings.unusable_certificates()):
        raise CannotStart("serve with the certificates", "; ".join(problems), "correct these files")


def certificate_expiry(path: Path) -> float:
    """Return the earliest expiry of the certificates in the file, in seconds since 1970."""
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(path.read_bytes())).timestamp()


class CertificateWatch:
    """Calls `renewed`, in a thread of its own, when the files have changed and are stable. Ends with the block."""

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
        served = last = self._stamps()
        while not self._closed.wait(_POLL_SECONDS):
            now = self._stamps()
            # A renewal writes several files, one after the other: wait until two polls see the same.
            if now == last != served:
                served = now
                self._renewed()
            last = now

    def _stamps(self) -> _Stamp:
        return tuple(_file_stamp(path) for path in self._files)


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()  # follows symbolic links: orchestrators renew files by replacing a link
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
