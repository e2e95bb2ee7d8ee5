"""Logging: readable lines in dev, JSON lines elsewhere. Captures records of the standard library's logging."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

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
# The same for lines of completed requests, which bypass loguru; and with the colours that loguru uses on a terminal.
_READABLE_REQUEST: Final = "{time} INFO    {message} {id}\n"
_COLOURED_REQUEST: Final = "\x1b[32m{time}\x1b[0m \x1b[1mINFO   \x1b[0m {message} \x1b[2m{id}\x1b[0m\n"
_NO_REQUEST: Final[Mapping[str, Any]] = {"correlation_id": ""}

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)  # DIDs are a subclass of str

_SIGNED_PREFIX: Final = "/v1/blobs/"
_SIGNED: Final = re.compile(rf"^({_SIGNED_PREFIX}[^/]+/).+")

# The ids added to every line of a request. Not loguru's contextualize, which costs as much as a line.
_request_ids: ContextVar[Mapping[str, Any]] = ContextVar("request", default=_NO_REQUEST)


@dataclass(frozen=True, slots=True)
class _RequestLog:
    """How completed requests are logged. `text_format`: None for JSON. `sample`: the share of successes to log."""

    text_format: str | None = _READABLE_REQUEST
    enabled: bool = True
    sample: float = 1.0


_request_log = _RequestLog()  # set by set_up_logs


class _RequestLine(msgspec.Struct, omit_defaults=True, tag_field="level", tag="info"):
    """The same line as `_json_line` makes, in three quarters of the time."""

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
    """Send all log lines, ours and those of libraries, to standard error in one format."""
    global _request_log
    level = settings.log_level.upper()
    _request_log = _RequestLog(
        text_format=_request_format() if settings.is_dev else None,
        enabled=level in {"DEBUG", "INFO"},
        sample=settings.log_sample,
    )
    logger.remove()
    logger.configure(patcher=lambda record: record["extra"].update(_request_ids.get()))
    if settings.is_dev:
        # diagnose=False: a traceback must not print the values of variables, which may be secrets.
        logger.add(sys.stderr, format=_text_format, level=level, diagnose=False, backtrace=False)
    else:
        logger.add(_write_json_line, format="{message}", level=level, diagnose=False, backtrace=False)
    # Below WARNING, libraries log too much.
    logging.basicConfig(handlers=[_ToLoguru()], level=max(logging.WARNING, logging.getLevelName(level)), force=True)
    # It logs each retry without saying of what; the caller logs it when it gives up.
    logging.getLogger("stamina").setLevel(logging.ERROR)


class lines_of_request:  # noqa: N801 - used like a function; a contextmanager of a generator is slower
    """Add these ids to every line that is logged within the block."""

    __slots__ = ("_ids", "_token")

    def __init__(self, correlation_id: str, trace_id: str | None) -> None:
        self._ids = {"correlation_id": correlation_id, "trace_id": trace_id}

    def __enter__(self) -> None:
        self._token = _request_ids.set(self._ids)

    def __exit__(self, *_: object) -> None:
        _request_ids.reset(self._token)


def log_requests(requests: Iterable[CompletedRequest]) -> None:
    """Write one line for each completed request; of successes only a sample, if `log_sample` is less than 1."""
    if _request_log.enabled:
        # In one write, because each releases the GIL, which the loop then waits for. Without loguru, which takes ten
        # times as long for a line, almost as long as a whole request.
        chosen = filter(_is_sampled, requests)
        text_format = _request_log.text_format
        _put(_json_requests(chosen) if text_format is None else _text_requests(chosen, text_format))


def _is_sampled(request: CompletedRequest) -> bool:
    sample = _request_log.sample
    return sample == 1 or not 0 < request.status < 400 or random.random() < sample  # noqa: S311 - no secret


def _json_requests(requests: Iterable[CompletedRequest]) -> str:
    time = format_time(datetime.now(UTC))
    lines = [
        _RequestLine(
            time, _message(it), it.correlation_id, it.route, it.status, round(it.seconds * 1000, 3),
            it.trace_id, it.did, it.error_code,
        )
        for it in requests
    ]  # fmt: skip
    return _ENCODER.encode_lines(lines).decode("utf-8", "replace")


def _text_requests(requests: Iterable[CompletedRequest], text_format: str) -> str:
    time = datetime.now().isoformat(timespec="milliseconds")[11:]  # noqa: DTZ005 - local time, read at this terminal
    return "".join([text_format.format(time=time, message=_message(it), id=it.correlation_id) for it in requests])


def _message(it: CompletedRequest) -> str:
    # The path stays percent-encoded: decoded, it could contain a line break and forge a log line. The token of a signed
    # URL is left out: anyone who reads the log could use it.
    path = it.path.decode("ascii", "backslashreplace")
    if path.startswith(_SIGNED_PREFIX):
        path = _SIGNED.sub(r"\1...", path)
    elif "%" in path and unquote(path).startswith(_SIGNED_PREFIX):  # routes match decoded paths
        path = f"{_SIGNED_PREFIX}..."
    return f"{it.method} {path} {it.status} {it.seconds * 1000:.1f} ms"


def _request_format() -> str:
    return _COLOURED_REQUEST if sys.stderr.isatty() and "NO_COLOR" not in os.environ else _READABLE_REQUEST


def _text_format(record: Record) -> str:
    return _READABLE + ("{exception}\n" if record["exception"] else "")


def _write_json_line(message: Message) -> None:
    record = message.record
    exception = str(message).partition("\n")[2] if record["exception"] else None
    _put(_json_line(record["time"], record["level"].name.lower(), record["message"], record["extra"], exception))


def _json_line(moment: datetime, level: str, message: str, extra: Mapping[str, Any], exception: str | None) -> str:
    line = {"time": format_time(moment), "level": level, "message": message}
    line |= {name: value for name, value in extra.items() if value is not None and value != ""}
    if exception is not None:
        line["exception"] = exception
    return _ENCODER.encode(line).decode("utf-8", "replace") + "\n"


def _put(lines: str) -> None:
    sys.stderr.write(lines)


class _ToLoguru(logging.Handler):
    """Passes the standard library's log records on to loguru, with the caller that logged them."""

    def emit(self, record: logging.LogRecord) -> None:
        frame: FrameType | None = logging.currentframe()
        depth = 2
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        known = {"CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"}
        level = record.levelname if record.levelname in known else record.levelno
        logger.opt(depth=depth, exception=record.exc_info).log(level, "{}", record.getMessage())
