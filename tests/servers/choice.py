"""The choice of servers: one named in the environment, else a Docker container, else the program from a wheel."""

from typing import TypeVar

from tests.servers.container import docker_offers
from tests.servers.host import NoServer
from tests.servers.server import Server

AnyServer = TypeVar("AnyServer", bound=Server)


def own(kind: type[AnyServer], *, durable: bool = True) -> AnyServer:
    """Return a new server for this caller alone, which may be killed. Raises: NoServer."""
    return kind.in_docker(durable=durable) if docker_offers(kind.IMAGE) else kind.from_wheel(durable=durable)


def shared(kind: type[AnyServer], *, durable: bool = True) -> AnyServer:
    """Return the server that the environment names, else a new one. Do not kill or pause it. Raises: NoServer."""
    return kind.from_environment() or own(kind, durable=durable)


def describe(kind: type[Server]) -> str:
    """Describe what `shared` would choose. Starts nothing, but may pull an image."""
    if named := kind.from_environment():
        return f"{named.host.address}:{named.host.port} ({kind.VARIABLE})"
    if docker_offers(kind.IMAGE):
        return f"Docker image {kind.IMAGE}"
    try:
        kind.require_wheel()
    except NoServer as error:
        return f"NONE, tests that need it are skipped: {error}"
    return f"wheel {kind.WHEEL}"
