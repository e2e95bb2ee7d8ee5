"""Keys and signed claims for a NATS server that admits only users with a credentials file."""

import base64
import json
import secrets
from dataclasses import dataclass
from typing import Any, Self

import nkeys

from tests.leaks import secret

UNLIMITED = -1


@dataclass(frozen=True)
class Identities:
    """`configuration`: members of the server's configuration. `credentials`: the text of a user's .creds file."""

    configuration: dict[str, Any]
    credentials: str

    @classmethod
    def new(cls) -> Self:
        """Create an operator, a system account, an account that may use JetStream, and one user of that account."""
        operator, system, account, user = (
            new_key(prefix)
            for prefix in (
                nkeys.PREFIX_BYTE_OPERATOR,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_USER,
            )
        )
        connections = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
        sharing = dict.fromkeys(("imports", "exports", "conn", "leaf"), UNLIMITED) | {"wildcards": True}
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED)
        configuration = {
            "operator": claim(operator, operator, "operator"),
            "system_account": public(system),
            "resolver": "MEMORY",
            "resolver_preload": {
                public(system): claim(operator, system, "account", limits=connections | sharing),
                public(account): claim(operator, account, "account", limits=connections | sharing | storage),
            },
        }
        token = claim(account, user, "user", **connections)
        seed = secret(user.seed.decode(), "the seed of NATS credentials")
        return cls(configuration, marked("NATS USER JWT", secret(token, "a NATS JWT")) + marked("USER NKEY SEED", seed))


def new_key(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(secrets.token_bytes(32), prefix))


def public(key: nkeys.KeyPair) -> str:
    return bytes(key.public_key).decode()


def claim(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **what: Any) -> str:
    """Return a NATS JWT: claims about the subject, signed by the issuer."""
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": secrets.token_hex(16),
        "iat": 0,
        "iss": public(issuer),
        "sub": public(subject),
        "name": kind,
        "nats": {"type": kind, "version": 2, **what},
    }
    signed = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(body).encode())}"
    return f"{signed}.{encoded(issuer.sign(signed.encode()))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def marked(label: str, text: str) -> str:
    return f"-----BEGIN {label}-----\n{text}\n------END {label}------\n\n"
