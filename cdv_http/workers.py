"""Granian's worker processes behind one listening socket, replaced without turning anybody away.

On Linux each of granian's workers would listen on a socket of its own, and whoever waits at that of a worker that ends
is turned away. At a shared one they wait for the next worker.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from granian._granian import SocketHolder
from granian.server.mp import MPServer
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from loguru import logger

from cdv_http.app import create_app

_ACCEPT_NO_MORE: Final = signal.SIGUSR1
_LAST_REQUESTS_SECONDS: Final = 2.0  # ours: from a connection's acceptance until its first request is there
_LOOK_SECONDS: Final = 0.05


class Workers(MPServer):
    """Serves from `listener`, which is bound and listens already.

    `prove`: raises if a worker started now could not serve.
    """

    def __init__(self, listener: socket.socket, *, prove: Callable[[], None], **options: Any) -> None:  # noqa: ANN401 - granian's
        super().__init__("cdv_http.app:create_app", **options)
        self._listener = listener
        self._prove = prove

    def serve(self) -> None:  # type: ignore[override]  # granian's parameters are not ours to give
        """Serve until SIGTERM or SIGINT; on SIGHUP, replace the workers one by one."""
        super().serve(target_loader=partial(_worker_app, self._listener.fileno()), wrap_loader=False)

    def replace_workers(self) -> None:
        """As SIGHUP does, and from any thread."""
        self.reload_signal = True
        self.main_loop_interrupt.set()

    def _init_shared_socket(self) -> None:
        self._shd: Any = SocketHolder(self._listener.fileno(), False, self.backlog)  # type: ignore[call-arg]
        self._listener.set_inheritable(True)
        self._sso = self._listener

    def _spawn_worker(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - granian's
        worker: Any = super()._spawn_worker(*arguments, **options)
        terminate = worker.terminate

        def end() -> None:
            if not self.interrupt_signal:
                self._let_finish(worker)
            terminate()

        worker.terminate = end
        return worker

    def _let_finish(self, worker: Any) -> None:  # noqa: ANN401 - granian's
        """Have the worker accept no more, and wait until what it has accepted is a request.

        Granian's way to end lets requests finish, but closes connections on which none has arrived yet.
        """
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, _ACCEPT_NO_MORE)
            # Not an event's wait: another reload asked for meanwhile must not cut it short, only the end of all.
            deadline = time.monotonic() + _LAST_REQUESTS_SECONDS
            while time.monotonic() < deadline and not self.interrupt_signal:
                time.sleep(_LOOK_SECONDS)

    def _reload(self, *arguments: Any) -> None:  # noqa: ANN401 - granian's
        self.reload_signal = False
        self.main_loop_interrupt.clear()
        try:
            # A worker that cannot start would be taken for a crash, and end the service.
            self._prove()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end those that run
            logger.error("the workers are not replaced, those that run go on: {}", error)
        else:
            logger.info("new workers take over; the old ones end when they have answered")
            super()._reload(*arguments)  # type: ignore[no-untyped-call]


def _worker_app(listener: int) -> ASGIApp:
    """Return what a worker serves, once it knows how to stop accepting. `listener`: the socket's number."""
    app = _Parting(create_app())

    def stop_accepting(*_: object) -> None:
        app.parting = True
        _stop_accepting(listener)

    signal.signal(_ACCEPT_NO_MORE, stop_accepting)
    return app


class _Parting:
    """Tells clients with their last answer to come back on another connection, while `parting`.

    Or they would ask again on one that is closed in that very moment.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.parting = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            if message["type"] == "http.response.start" and self.parting and scope["http_version"].startswith("1"):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, last if scope["type"] == ScopeType.HTTP else send)


def _stop_accepting(listener: int) -> None:
    """Put a socket that nobody knows in the place of the one that all workers accept from."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setblocking(False)
        os.dup2(deaf.fileno(), listener, inheritable=False)
