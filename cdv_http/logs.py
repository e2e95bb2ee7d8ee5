"""Logs: readable in a terminal in dev, JSON lines elsewhere; the standard library's are captured."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from loguru import logger

from cdv_adapters.settings import Settings
from cdv_core.domain.times import format_time

if TYPE_CHECKING:
    from loguru import Message, Record

_READABLE = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message} <dim>{extra[correlation_id]}</dim>\n"
)
# The same for a request's line, which does not go through loguru; and with the colours that loguru gives a terminal.
_READABLE_REQUEST: Final = "{time} INFO    {message} {id}\n"
_COLOURED_REQUEST: Final = "\x1b[32m{time}\x1b[0m \x1b[1mINFO   \x1b[0m {message} \x1b[2m{id}\x1b[0m\n"
_NO_REQUEST: Final[Mapping[str, Any]] = {"correlation_id": ""}

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)  # DIDs are strings of a kind of their own

_waiting: list[str] = []  # lines of requests, until the loop's next round; only its thread touches them

# What every line of a request says. Not loguru's contextualize: it costs as much as a line.
_request: ContextVar[Mapping[str, Any]] = ContextVar("request", default=_NO_REQUEST)


class _Chosen:
    """What set_up_logs has chosen for request lines. `readable`: how they look; None for JSON."""

    readable: str | None = _READABLE_REQUEST
    written = True
    sample = 1.0


class _RequestLine(msgspec.Struct, omit_defaults=True, tag_field="level", tag="info"):
    """As _json_line makes a line, in three quarters of the time."""

    time: str
    message: str
    correlation_id: str
    route: str
    status: int
    latency_ms: float
    trace_id: str | None = None
    did: str | None = None
    error_code: str | None = None


def set_up_logs(settings: Settings) -> None:
    """Send every log line, ours and the libraries', to standard error in one form."""
    level = settings.log_level.upper()
    _Chosen.readable = _readable_request() if settings.is_dev else None
    _Chosen.written = level in {"DEBUG", "INFO"}
    _Chosen.sample = settings.log_sample
    logger.remove()
    logger.configure(patcher=lambda record: record["extra"].update(_request.get()))
    if settings.is_dev:
        # diagnose=False: a traceback must not print the values of variables, secrets among them.
        logger.add(sys.stderr, format=_readable, level=level, diagnose=False, backtrace=False)
    else:
        logger.add(_write_json_line, format="{message}", level=level, diagnose=False, backtrace=False)
    # Libraries say more below a warning than anybody should read.
    logging.basicConfig(handlers=[_ToLoguru()], level=max(logging.WARNING, logging.getLevelName(level)), force=True)
    # It announces each retry without saying of what; whoever gives up says that.
    logging.getLogger("stamina").setLevel(logging.ERROR)


@contextmanager
def lines_of_request(correlation_id: str, trace_id: str | None) -> Iterator[None]:
    """Give these ids to every line that is written within the block."""
    token = _request.set({"correlation_id": correlation_id, "trace_id": trace_id})
    try:
        yield
    finally:
        _request.reset(token)


def log_request(
    message: Callable[[], str], *, route: str, status: int, latency_ms: float, did: str | None, error_code: str | None
) -> None:
    """Write the one line of a request that has been answered; of successes only the sample that is asked for."""
    if not _Chosen.written:
        return
    if _Chosen.sample < 1 and 0 < status < 400 and random.random() >= _Chosen.sample:  # noqa: S311 - no secret
        return
    # Past loguru, which takes ten times as long, and a request takes little longer than that.
    if _Chosen.readable is not None:
        time = datetime.now().isoformat(timespec="milliseconds")[11:]  # noqa: DTZ005 - whoever reads it is here
        _put_soon(_Chosen.readable.format(time=time, message=message(), id=_request.get()["correlation_id"]))
        return
    ids = _request.get()
    line = _RequestLine(
        *(format_time(datetime.now(UTC)), message(), ids["correlation_id"], route, status, latency_ms),
        *(ids.get("trace_id"), did, error_code),
    )
    _put_soon(_ENCODER.encode(line).decode("utf-8", "replace") + "\n")


def _readable_request() -> str:
    return _COLOURED_REQUEST if sys.stderr.isatty() and "NO_COLOR" not in os.environ else _READABLE_REQUEST


def _readable(record: Record) -> str:
    return _READABLE + ("{exception}\n" if record["exception"] else "")


def _write_json_line(message: Message) -> None:
    record = message.record
    exception = str(message).partition("\n")[2] if record["exception"] else None
    _put(_json_line(record["time"], record["level"].name.lower(), record["message"], record["extra"], exception))


def _json_line(moment: datetime, level: str, message: str, said: Mapping[str, Any], exception: str | None) -> str:
    line = {"time": format_time(moment), "level": level, "message": message}
    line |= {name: value for name, value in said.items() if value is not None and value != ""}
    if exception is not None:
        line["exception"] = exception
    return _ENCODER.encode(line).decode("utf-8", "replace") + "\n"


def _put_soon(line: str) -> None:
    """Write the line with those of the requests that are answered in the same round of the loop.

    Each write lets go of the interpreter's lock, and the loop waits to get it back
    (docs/adr/012-fewer-instructions.md).
    """
    if not _waiting:
        asyncio.get_running_loop().call_soon(put_what_waits)
    _waiting.append(line)


def put_what_waits() -> None:
    """Write the lines that wait. To be called by the loop's thread, and before the loop ends."""
    if _waiting:
        lines = "".join(_waiting)
        _waiting.clear()  # first: whatever becomes of them, the next ones are written
        _put(lines)


def _put(lines: str) -> None:
    sys.stderr.write(lines)


class _ToLoguru(logging.Handler):
    """Passes the standard library's log records on to loguru, with the place they came from."""

    def emit(self, record: logging.LogRecord) -> None:
        frame: FrameType | None = logging.currentframe()
        depth = 2
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        known = {"CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"}
        level = record.levelname if record.levelname in known else record.levelno
        logger.opt(depth=depth, exception=record.exc_info).log(level, "{}", record.getMessage())
