"""Logs: readable in a terminal in dev, JSON lines elsewhere; the standard library's are captured."""

from __future__ import annotations

import logging
import sys
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
from loguru import logger

from cdv_adapters.settings import Settings
from cdv_core.domain.times import format_time

if TYPE_CHECKING:
    from loguru import Message, Record

_READABLE = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message} <dim>{extra[correlation_id]}</dim>\n"
)


def set_up_logs(settings: Settings) -> None:
    """Send every log line, ours and the libraries', to standard error in one form."""
    logger.remove()
    logger.configure(extra={"correlation_id": ""})
    if settings.is_dev:
        # diagnose=False: a traceback must not print the values of variables, secrets among them.
        logger.add(sys.stderr, format=_readable, level="INFO", diagnose=False, backtrace=False)
    else:
        logger.add(_write_json_line, format="{message}", level="INFO", diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)
    # It announces each retry without saying of what; whoever gives up says that.
    logging.getLogger("stamina").setLevel(logging.ERROR)


def _readable(record: Record) -> str:
    return _READABLE + ("{exception}\n" if record["exception"] else "")


def _write_json_line(message: Message) -> None:
    record = message.record
    line = {
        "time": format_time(record["time"]),
        "level": record["level"].name.lower(),
        "message": record["message"],
        **{name: value for name, value in record["extra"].items() if value not in {None, ""}},
    }
    if record["exception"]:
        line["exception"] = str(message).partition("\n")[2]
    sys.stderr.write(msgspec.json.encode(line, enc_hook=str).decode("utf-8", "replace") + "\n")


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
