"""Structured logs: one JSON object a line on stderr. docs/observability.md lists the fields.

Neither secrets nor feature values are logged: of an exception its type and where it came from, not what it says.
"""

import json
import logging
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from fti.common.errors import FtiError
from fti.common.masking import masked
from fti.serve.observe.log_files import RotatingLog

log = logging.getLogger(__name__)

_MINUTE = 60.0
_EXCEPTIONS = 60  # a minute: uvicorn logs each that it meets, with its traceback
_EXPORTER = "opentelemetry"  # tells again and again of a collector that is down


class Limit:
    """Lets so many things through in each minute, and counts the others.

    Args:
        per_minute: How many.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute, self._left, self._until = per_minute, per_minute, 0.0
        self.left_out = 0

    def allows(self) -> bool:
        """Whether one more may pass. `left_out` counts those that might not since it was last set to 0."""
        now = time.monotonic()
        if now >= self._until:
            self._left, self._until = self._per_minute, now + _MINUTE
        if self._left > 0:
            self._left -= 1
            return True
        self.left_out += 1
        return False


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON. `extra={"fields": {...}}` adds fields.

    Args:
        fields: Fields of every record.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "message": masked(record.getMessage()),
            **self._fields,
            **getattr(record, "fields", {}),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line |= {"exception": kind.__name__, "traceback": "".join(traceback.format_tb(trace))}
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z).decode()
        except TypeError:  # what is no Unicode, such as parts of the name of a file
            return json.dumps(line, default=str)


class _NoFlood(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._exporter, self._exceptions = Limit(1), Limit(_EXCEPTIONS)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(_EXPORTER):
            return self._exporter.allows()
        return not record.exc_info or self._exceptions.allows()


def configure(log_file: Path | None = None, **fields: str) -> None:
    """Makes this process log in JSON, KServe's and uvicorn's lines and last words too.

    Args:
        log_file: The file that stdout and stderr go to, if it is to be rotated.
        fields: Fields of every line, such as the model's name.
    """
    handler: logging.Handler = RotatingLog(log_file) if log_file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(fields))
    handler.addFilter(_NoFlood())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    kserve = logging.getLogger("kserve")
    kserve.handlers, kserve.propagate = [handler], False  # one that has handlers, KServe leaves as it is
    logging.captureWarnings(True)
    sys.excepthook = _last_words
    threading.excepthook = lambda ended: _unexpected(f"a thread ended: {ended.exc_type.__name__}", ended)


def readable(line: str) -> str:
    """What a line of a log says, for people: the message where it is one of ours, else the line."""
    if line.startswith("{"):
        try:
            message = json.loads(line)["message"]
        except (ValueError, KeyError, TypeError):
            return line
        if isinstance(message, str):
            return message
    return line


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    # Nothing is served yet, or any more: what the exception says holds no request's values.
    said = str(error) if isinstance(error, FtiError) else traceback.format_exception_only(error)[-1].strip()
    log.critical("%s", said, exc_info=(kind, error, trace))


def _unexpected(message: str, ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        log.error("%s", message, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback))
