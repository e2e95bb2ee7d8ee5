"""Which server a test run uses: one named in the environment, else a container, else the program from a wheel."""

from typing import TypeVar

from tests.servers.container import docker_offers
from tests.servers.host import NoServer
from tests.servers.server import Server

AnyServer = TypeVar("AnyServer", bound=Server)


def own(kind: type[AnyServer], *, durable: bool = True) -> AnyServer:
    """A new server that nobody else uses: it may be killed. Raises: NoServer."""
    return kind.in_docker(durable=durable) if docker_offers(kind.IMAGE) else kind.from_wheel(durable=durable)


def shared(kind: type[AnyServer], *, durable: bool = True) -> AnyServer:
    """The server that the environment names, else one of our own. Not to be killed or paused. Raises: NoServer."""
    return kind.from_environment() or own(kind, durable=durable)


def describe(kind: type[Server]) -> str:
    """What `shared` would choose, in words. Starts nothing, but may pull an image."""
    if named := kind.from_environment():
        return f"{named.host.address}:{named.host.port} ({kind.VARIABLE})"
    if docker_offers(kind.IMAGE):
        return f"Docker image {kind.IMAGE}"
    try:
        kind.require_wheel()
    except NoServer as error:
        return f"NONE, tests that need it are skipped: {error}"
    return f"wheel {kind.WHEEL}"
