"""Prints one line on the terminal for each request, read from the api's log while `wallet up` runs.

The api writes a JSON line for each request, `{"event":"request","method":…,"path":…,"status":…,"ms":…}`, in any case,
so showing the lines costs the api nothing. At most LINES_A_SECOND_MAX are decoded and shown; the rest are only counted.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from rich.console import Console
from rich.text import Text

from wallet.cli.options import clipped, printable

LINES_A_SECOND_MAX: Final = 20
PATH_CHARACTERS_MIN: Final = 20
READ_BYTES_MAX: Final = 4 * 1024 * 1024
_PAUSE_SECONDS: Final = 0.25
_IS_REQUEST: Final = b'"event":"request"'
_STYLES: Final = {2: "green", 3: "green", 4: "yellow", 5: "bold red"}


class RequestLine(msgspec.Struct, frozen=True):
    """The fields of a request that are shown."""

    event: str
    method: str
    path: str
    status: int
    ms: float


_DECODER: Final = msgspec.json.Decoder(RequestLine)


async def show_requests(tail: "Tail", console: Console, stop: asyncio.Event) -> None:
    """Print the requests that are appended to a log, until `stop`; then close the log."""
    limit = RateLimit(asyncio.get_running_loop().time)
    try:
        while not stop.is_set():
            for text in limit.choose(await asyncio.to_thread(tail.read_requests), console.width):
                console.print(text, overflow="ellipsis", no_wrap=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await stop.wait()
    finally:
        tail.close()


class Tail:
    """Reads the requests that are appended to a log, across its rotation; starts at the current end."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._rest = b""
        self._file = self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read_requests(self) -> list[bytes]:
        """Returns the lines about requests that were written since the last call. Never raises OSError."""
        if self._file is None:
            self._file = self._open()
        if self._file is None:
            return []
        data = b""
        with suppress(OSError):
            data = self._file.read(READ_BYTES_MAX)
            if len(data) < READ_BYTES_MAX and self._is_rotated(self._file):
                # Nothing is written to this file any more: the next lines are in the file that has the name now.
                self._file.close()
                self._file = self._open()
                if self._file is not None:
                    data += self._file.read(READ_BYTES_MAX)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line for line in lines if _IS_REQUEST in line]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> BinaryIO | None:
        try:
            return self._log.open("rb")
        except OSError:
            return None

    def _is_rotated(self, file: BinaryIO) -> bool:
        try:
            return not os.path.samestat(os.fstat(file.fileno()), self._log.stat())
        except OSError:
            return False


class RateLimit:
    """Chooses the lines to show: the first few of each second, then the number of the others."""

    def __init__(self, clock: Callable[[], float], lines_max: int = LINES_A_SECOND_MAX) -> None:
        self._clock = clock
        self._lines_max = lines_max
        self._second_ends_at = 0.0
        self._shown_count = 0
        self._hidden_count = 0

    def choose(self, lines: list[bytes], width: int) -> list[Text]:
        """Returns the texts to print now for these new lines; `width` is the terminal's, in columns."""
        texts = []
        if self._clock() >= self._second_ends_at:
            if self._hidden_count:
                texts.append(Text(f"… and {self._hidden_count:,} more", style="dim"))
            self._second_ends_at = self._clock() + 1
            self._shown_count = self._hidden_count = 0
        for line in lines:
            if self._shown_count == self._lines_max:
                self._hidden_count += 1
            elif (request := _decoded(line)) is not None:
                self._shown_count += 1
                texts.append(line_of(request, width))
        return texts


def line_of(request: RequestLine, width: int) -> Text:
    """Returns method, path, status and duration. Terminal control characters are escaped; only the path is cut."""
    method = f"{printable(clipped(request.method, 10)):<7} "
    end = Text("  ")
    end.append(str(request.status), style=_STYLES.get(request.status // 100, ""))
    end.append(f"  {request.ms:,.1f} ms", style="dim")
    path = clipped(printable(request.path), max(PATH_CHARACTERS_MIN, width - len(method) - len(end)))
    return Text(f"{method}{path}").append_text(end)


def _decoded(line: bytes) -> RequestLine | None:
    try:
        request = _DECODER.decode(line)
    except msgspec.MsgspecError:
        return None
    return request if request.event == "request" else None
