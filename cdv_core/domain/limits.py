"""The contract's fixed limits, each with its unit and source. Limits that an operator may change are settings."""

from datetime import timedelta
from typing import Final

DID_MAX_CHARS: Final = 2048  # spec: domain, identifiers
NSID_MAX_CHARS: Final = 317  # AT Protocol NSID syntax: 253 for the domain, a dot, 63 for the name
RECORD_KEY_MAX_CHARS: Final = 512  # AT Protocol record key syntax

RECORD_MAX_BYTES: Final = 256 * 1024  # spec: rate limits, sizes; measured on the stored JSON
RECORD_NESTING_MAX: Final = 32  # spec: rate limits, sizes; nested containers, including the record itself
INTEGER_MIN: Final = -(2**63)  # spec: domain, CID: integers are 64-bit
INTEGER_MAX: Final = 2**63 - 1

PAGE_DEFAULT: Final = 25  # spec: listRecords
PAGE_MAX: Final = 100  # spec: listRecords
# Ours: without it, a DID with a hundred records of the largest size would make each page take 25 MB of memory.
PAGE_MAX_BYTES: Final = 1024 * 1024  # four records of the largest size, or a hundred of 10 KiB

IDEMPOTENCY_KEY_MAX_CHARS: Final = 255  # spec: idempotency
IDEMPOTENCY_LIFE: Final = timedelta(hours=24)  # spec: idempotency

CORRELATION_ID_MAX_CHARS: Final = 128  # spec: conventions
CLOCK_SKEW: Final = timedelta(seconds=60)  # spec: authentication

UPLOAD_LIFE: Final = timedelta(minutes=15)  # ours: long enough for 10 MiB on a slow phone, short enough to sweep
DOWNLOAD_LIFE: Final = timedelta(minutes=5)  # ours: clients follow a redirect immediately
SWEEP_GRACE: Final = timedelta(hours=1)  # ours: longer than any finalize that began before the expiry can run
FILENAME_MAX_BYTES: Final = 255  # the commonest file system limit
MAGIC_BYTES: Final = 64  # ours: the most leading bytes that recognising a type needs
