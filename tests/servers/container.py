"""A server in a Docker container from its official image."""

import atexit
import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.servers.process import free_port

ENGINE_TIMEOUT_SECONDS = 60
SOCKETS = [Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]


@cache
def docker_offers(image: str) -> bool:
    """Return whether Docker runs here and has the image or can pull it. After a failed pull, no other is tried."""
    # Importing the Docker client takes longer than most test files, so look for an engine first.
    if "DOCKER_HOST" not in os.environ and not any(path.exists() for path in SOCKETS):
        return False
    import docker
    from docker.errors import DockerException, ImageNotFound

    global _registry_is_out_of_reach
    try:
        with contextlib.closing(docker.from_env(timeout=ENGINE_TIMEOUT_SECONDS)) as engine:
            try:
                engine.images.get(image)
            except ImageNotFound:
                if _registry_is_out_of_reach:
                    return False
                _registry_is_out_of_reach = True
                engine.images.pull(image)
                _registry_is_out_of_reach = False
    except DockerException:
        return False
    return True


_registry_is_out_of_reach = False


class Container:
    """A `Host`: a container whose `container_port` is published on a local port that stays the same across restarts."""

    def __init__(
        self,
        image: str,
        container_port: int,
        *,
        command: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """`files`: text by its path in the container."""
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        testcontainers_config.ryuk_disabled = True  # one image fewer to pull; `close` removes the container
        self.port = free_port()
        self._container = DockerContainer(image).with_bind_ports(container_port, self.port).with_envs(**variables or {})
        if command:
            self._container.with_command(list(command))
        for path, text in (files or {}).items():
            self._container.with_copy_into_container(text.encode(), path)
        self.address = self._container.get_docker_client().host()
        self._created = False
        atexit.register(self.close)

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._created = True
            self._container.start()

    def stop(self) -> None:
        if self.alive():
            self.resume()
            self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        if self.alive():
            self.resume()
            self._container.get_wrapped_container().kill()
            self._container.wait()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.reload()
        if self._container.status == "paused":
            self._container.get_wrapped_container().unpause()

    def alive(self) -> bool:
        self._container.reload()
        return self._container.status in {"running", "paused"}

    def log_tail(self) -> str:
        log: bytes = self._container.get_wrapped_container().logs(tail=30)
        return log.decode(errors="replace")

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._created:
            self._created = False
            self._container.stop()
