"""Logs: structured events, written as JSON lines in LOG_DIR and as readable text on a terminal.

Code that logs only puts the event on a queue. A thread encodes and writes it, so that a slow disk never delays a
request. Several processes may share one file, because a lock protects its rotation.
"""

import logging
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal

import msgspec
import structlog
from concurrent_log_handler import ConcurrentRotatingFileHandler

from wallet.runtime.settings import Settings

FILE_BYTES_MAX: Final = 20 * 1024 * 1024
FILES_KEPT: Final = 5
EVENTS_WAITING_MAX: Final = 20_000
"""How many events may wait for the disk. Further events are dropped and counted, so that no request is delayed."""
LINES_PER_WRITE_MAX: Final = 500
GATHER_SECONDS: Final = 0.05
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING}
FILE_MODE: Final = 0o640
"""Logs contain wallet ids and client addresses: only the owner may write them, and only its group may read them."""

LogEvent = MutableMapping[str, Any]

_current: "_Current | None" = None


@contextmanager
def logging_to(settings: Settings, service: str, *, on_terminal: bool, **bound: object) -> Iterator[None]:
    """Log as `service` (api, worker, relay) to LOG_DIR/service.log, and to stderr if `on_terminal`.

    `bound` has fields that are added to every event. Raises OSError if LOG_DIR can't be written.
    """
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    writer = _Writer(settings.log_dir / f"{service}.log", on_terminal=on_terminal)
    root = logging.getLogger()
    handler = _StandardLibraryHandler(writer)
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[settings.log_level.upper()]))
    # pika logs every step of every connection attempt. Its errors are raised as exceptions anyway.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    _configure_structlog(service, settings.log_level, writer)
    global _current  # noqa: PLW0603 - as structlog's own configuration, it is the process's.
    _current = _Current(writer, service, logging.getLevelNamesMapping()[settings.log_level.upper()], bound)
    structlog.contextvars.bind_contextvars(**bound)
    try:
        yield
    finally:
        _current = None
        structlog.contextvars.unbind_contextvars(*bound)
        root.removeHandler(handler)
        structlog.reset_defaults()
        writer.close()


def log_struct(level: Literal["info", "warning"], event: str, fields: msgspec.Struct) -> None:
    """Log one event whose fields are a struct. Use it for events of every request, where each microsecond counts.

    The event is encoded by the caller: the writing thread would hold the interpreter lock while requests wait.
    """
    if _current is not None and _LEVELS[level] >= _current.level:
        head = _current.head(level, event)
        _current.writer.put(b"".join((b'{"timestamp":', _encode(datetime.now(UTC)), head, _encode(fields)[1:])))


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


class _Current:
    """The arguments of `logging_to`, and the line beginnings that are derived from them."""

    def __init__(self, writer: "_Writer", service: str, level: int, bound: Mapping[str, object]) -> None:
        self.writer = writer
        self.level = level
        self._service = service
        self._bound = bound
        self._heads: dict[tuple[str, str], bytes] = {}

    def head(self, level: str, event: str) -> bytes:
        """Returns the JSON text between the time and the event's own fields."""
        head = self._heads.get((level, event))
        if head is None:
            fields = {"level": level, "service": self._service, "event": event, **self._bound}
            head = self._heads[level, event] = b"," + _encode(fields)[1:-1] + b","
        return head


class _File(ConcurrentRotatingFileHandler):
    """A log file that raises write errors; the base class prints a traceback for every event instead."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name for it.
        if self.stream is not None:
            # The buffer still has the text that could not be written. A later flush would mix it with other lines.
            with suppress(OSError):
                self.stream.close()
            self.stream = None
        raise  # noqa: PLE0704 - the base calls this where it caught the error.


class _Writer:
    """The queue of events and the thread that writes them. It has the interface of a logger, for structlog."""

    def __init__(self, path: Path, *, on_terminal: bool) -> None:
        self._queue: SimpleQueue[LogEvent | bytes | None] = SimpleQueue()
        self._closing = threading.Event()
        self._dropped = 0
        self._is_failing = False
        _restrict_earlier_files(path)
        self._file = _File(
            path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8", use_gzip=False, chmod=FILE_MODE
        )
        self._on_terminal = on_terminal
        self._readable = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else None
        self._thread = threading.Thread(target=self._write_all, name="log writer", daemon=True)
        self._thread.start()

    def put(self, event: LogEvent | bytes) -> None:
        """Queue an event, or the encoded line of an event, without waiting."""
        if self._queue.qsize() < EVENTS_WAITING_MAX:
            self._queue.put(event)
        else:
            self._dropped += 1

    debug = info = warning = error = critical = put

    def close(self) -> None:
        """Write the waiting events, then stop."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            events = self._next_events()
            is_open = None not in events
            written = [event for event in events if event is not None]
            if dropped := self._dropped:
                written.append({"event": "log_events_dropped", "level": "warning", "count": dropped})
            if not written:
                continue
            try:
                self._write(written)
            except (OSError, TypeError, ValueError) as error:
                # The disk may be full, or a text may not be encodable. The thread must survive, or `close` would hang.
                self._dropped += len(written) - bool(dropped)
                if not self._is_failing:
                    file = self._file.baseFilename
                    self._show([{"event": "log_file_failed", "level": "error", "file": file, "error": repr(error)}])
                self._is_failing = True
            else:
                self._dropped -= dropped
                self._is_failing = False

    def _next_events(self) -> list[LogEvent | bytes | None]:
        events = [self._queue.get()]
        # If each event woke this thread, it would interrupt the requests a hundred times a second.
        if self._queue.qsize() < LINES_PER_WRITE_MAX:
            self._closing.wait(GATHER_SECONDS)
        while len(events) < LINES_PER_WRITE_MAX and events[-1] is not None:
            try:
                events.append(self._queue.get_nowait())
            except Empty:
                break
        return events

    def _write(self, events: list[LogEvent | bytes]) -> None:
        lines = text = _lines_of(events)
        if self._is_failing:
            text = f"\n{text}"  # The last line may have been written in part.
        try:
            self._file.emit(logging.LogRecord("wallet", logging.INFO, "", 0, text, None, None))
        finally:
            if self._on_terminal:
                self._show(events, lines)

    def _show(self, events: Sequence[LogEvent | bytes], lines: str | None = None) -> None:
        # The terminal may be closed.
        with suppress(OSError, ValueError):
            if self._readable is not None:
                shown = [msgspec.json.decode(each) if isinstance(each, bytes) else each for each in events]
                lines = "\n".join(self._readable(None, str(each.get("level", "info")), each) for each in shown)
            elif lines is None:
                lines = _lines_of(events)
            sys.stderr.write(f"{lines}\n")
            sys.stderr.flush()


def _lines_of(events: Sequence[LogEvent | bytes]) -> str:
    return b"\n".join(each if isinstance(each, bytes) else _encode(each) for each in events).decode()


def _restrict_earlier_files(path: Path) -> None:
    """Set FILE_MODE on files that an earlier version wrote."""
    for earlier in (path, *path.parent.glob(f"{path.name}.*"), path.parent / f".__{path.stem}.lock"):
        # A file of another user is not changed; nor is anything that is not a regular file, such as a link to a device.
        with suppress(OSError):
            if earlier.is_file() and not earlier.is_symlink():
                earlier.chmod(FILE_MODE)


class _StandardLibraryHandler(logging.Handler):
    """Adds the log records of libraries to our own log."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        event: LogEvent = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})["timestamp"],
        }
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        self._writer.put(event)


def _configure_structlog(service: str, level: str, writer: _Writer) -> None:
    def put_first_things_first(_logger: object, _method: str, event: LogEvent) -> LogEvent:
        first = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "service": service}
        return {**first, "event": event.pop("event"), **event}

    def hand_over(_logger: object, _method: str, event: LogEvent) -> tuple[tuple[LogEvent], dict[str, Any]]:
        return (event,), {}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            put_first_things_first,
            hand_over,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_args: writer,
        cache_logger_on_first_use=False,
    )
