"""Logs: readable in a terminal in dev, JSON lines elsewhere; the standard library's are captured."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping
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

    from cdv_http.completed_requests import CompletedRequest

_READABLE = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message} <dim>{extra[correlation_id]}</dim>\n"
)
# The same for a request's line, which does not go through loguru; and with the colours that loguru gives a terminal.
_READABLE_REQUEST: Final = "{time} INFO    {message} {id}\n"
_COLOURED_REQUEST: Final = "\x1b[32m{time}\x1b[0m \x1b[1mINFO   \x1b[0m {message} \x1b[2m{id}\x1b[0m\n"
_NO_REQUEST: Final[Mapping[str, Any]] = {"correlation_id": ""}

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)  # DIDs are strings of a kind of their own

_SIGNED_BEGIN: Final = "/v1/blobs/"
_SIGNED: Final = re.compile(rf"^({_SIGNED_BEGIN}[^/]+/).+")

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


class lines_of_request:  # noqa: N801 - a block, as contextmanager makes them of generators, which take longer
    """Give these ids to every line that is written within the block."""

    __slots__ = ("_said", "_token")

    def __init__(self, correlation_id: str, trace_id: str | None) -> None:
        self._said = {"correlation_id": correlation_id, "trace_id": trace_id}

    def __enter__(self) -> None:
        self._token = _request.set(self._said)

    def __exit__(self, *_: object) -> None:
        _request.reset(self._token)


def log_requests(requests: Iterable[CompletedRequest]) -> None:
    """Write one line for each request that has been answered; of successes only the sample that is asked for."""
    if _Chosen.written:
        # All at once, for each write lets go of the interpreter's lock, and the loop waits to get it back; and past
        # loguru, which takes ten times as long for a line, and a request takes little longer than that.
        _put(
            "".join(map(_json_request() if _Chosen.readable is None else _text_request(), filter(_is_chosen, requests)))
        )


def _is_chosen(request: CompletedRequest) -> bool:
    return _Chosen.sample == 1 or not 0 < request.status < 400 or random.random() < _Chosen.sample  # noqa: S311 - no secret


def _json_request() -> Callable[[CompletedRequest], str]:
    time = format_time(datetime.now(UTC))

    def line(it: CompletedRequest) -> str:
        said = _RequestLine(
            *(time, _message(it), it.correlation_id, it.route, it.status, round(it.seconds * 1000, 3)),
            *(it.trace_id, it.did, it.error_code),
        )
        return _ENCODER.encode(said).decode("utf-8", "replace") + "\n"

    return line


def _text_request() -> Callable[[CompletedRequest], str]:
    time = datetime.now().isoformat(timespec="milliseconds")[11:]  # noqa: DTZ005 - whoever reads it is here
    line = str(_Chosen.readable).format
    return lambda it: line(time=time, message=_message(it), id=it.correlation_id)


def _message(it: CompletedRequest) -> str:
    # The path still percent-encoded: decoded, it could hold a line break and forge a line. Without the token of a
    # signed URL, which would let whoever reads the log use it.
    path = it.path.decode("ascii", "backslashreplace")
    if path.startswith(_SIGNED_BEGIN):
        path = _SIGNED.sub(r"\1...", path)
    return f"{it.method} {path} {it.status} {it.seconds * 1000:.1f} ms"


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
