"""The certificate that the service shows, and its clients' authority: proved before use, and watched afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509

from cdv_adapters.settings import Settings
from cdv_core.errors import CannotStart

_LOOK_EVERY_SECONDS: Final = 1.0  # ours: a renewal is seen after two looks

_Stamp = tuple[tuple[int, int, int] | None, ...]


def prove_certificates(settings: Settings) -> None:
    """Return if the files that the settings name can still be served with: they may have been renewed since.

    Raises: CannotStart: with every problem that there is.
    """
    if problems := tuple(settings.unusable_certificates()):
        raise CannotStart("serve with the certificates", "; ".join(problems), "correct them")


def certificate_expiry(path: Path) -> float:
    """Return when the first of the certificates in the file ends, in seconds since 1970."""
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(path.read_bytes())).timestamp()


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
