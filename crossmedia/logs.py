"""Log lines as text or as JSON, each with the id of the request that it belongs to.

A request's id comes with the call (``x-request-id``), or is made by the server; it goes back in the trailing metadata.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Literal

REQUEST_ID_KEY = "x-request-id"
LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(in_request)s"
A_SECOND = 10  # lines that one kind of failure may write

request_id: ContextVar[str] = ContextVar("request_id", default="")
_WELL_FORMED = re.compile(r"[\w.:-]{1,128}", re.ASCII).fullmatch


def new_request_id() -> str:
    """32 hex digits that no other request has."""
    return uuid.uuid4().hex


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id that came with a call; a new one if there is none, or if it would spoil a log."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _WELL_FORMED(value):
            return value
    return new_request_id()


def set_up_logs(form: LogFormat) -> None:
    """Log from INFO on to standard error: one line of text per record, or one JSON object per line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if form == "json" else _TextLines(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # which of its builds fits this CPU


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = request_id.get()
        record.in_request = f" [request {found}]" if found else ""
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # of logging
        """The line before a trace; text that quotes a caller must not look like a separate line."""
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := request_id.get():
            line["request_id"] = found
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Sparingly:
    """Lets only the first lines of a kind through in each second, so that many failures do not fill the disk."""

    def __init__(self, a_second: int = A_SECOND):
        self._a_second, self._second = a_second, 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def allows(self, kind: str) -> bool:
        """Whether one more of that kind may be written now."""
        with self._lock:
            if (second := int(time.monotonic())) != self._second:
                self._second, self._seen = second, {}
            self._seen[kind] = seen = self._seen.get(kind, 0) + 1
        return seen <= self._a_second
