"""I9: compares the heads that the relay exported with the journal. Only this comparison shows that a tail was cut off,
or that history was rewritten together with a matching chain.

The file is read only up to the length that it had before the snapshot was taken. Every head in that part was committed
earlier, so a head that the snapshot lacks is missing, not late.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Self

from wallet.integrity.findings import Check, Finding
from wallet.integrity.snapshot import SQL, Snapshot
from wallet.wire.digest import GENESIS

HEADS_COMPARED: Final = 1_000

_LINE: Final = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{64})(?: (\S*))?\n?")


class HeadsUnreadable(Exception):
    """The file of exported heads can't be read."""


@dataclass(frozen=True, slots=True)
class ExportedHead:
    """One line of the file."""

    position: int
    chain: bytes
    exported_at: str
    line: int


class ExportedHeads:
    """The lines that a file has now; lines appended later are ignored."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size

    @classmethod
    def of(cls, path: Path) -> Self:
        """Record the length of the file and check that it can be read up to there. Raises HeadsUnreadable."""
        try:
            heads = cls(path, path.stat().st_size)
        except OSError as error:
            raise HeadsUnreadable(f"The heads can't be read: {error}.") from error
        for _ in heads:
            pass
        return heads

    def __iter__(self) -> Iterator[ExportedHead]:
        """Yields the heads, except those that only repeat the previous one. Raises HeadsUnreadable."""
        last: tuple[int, bytes] | None = None
        for number, line in enumerate(self._lines(), start=1):
            match = _LINE.fullmatch(line)
            if match is None:
                if not line.endswith(b"\n"):
                    # The last line was still being written when the length was read.
                    return
                raise HeadsUnreadable(f"Line {number} of {self.path} is not `position chain time`: {line[:80]!r}.")
            head = ExportedHead(int(match[1]), bytes.fromhex(match[2].decode()), (match[3] or b"").decode(), number)
            if (head.position, head.chain) != last:
                yield head
            last = head.position, head.chain

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while file.tell() < self._size:
                    yield file.readline(self._size - file.tell())
        except OSError as error:
            raise HeadsUnreadable(f"The heads can't be read: {error}.") from error


async def prove_heads(snapshot: Snapshot, exported: ExportedHeads) -> list[Finding]:
    """Look up each exported head."""
    finding = Finding(Check.HEADS, "head")
    last = await snapshot.row(SQL.last_position)
    end = 0 if last is None else last["position"]
    agreed, wrong = 0, list[tuple[ExportedHead, bytes | None]]()
    heads = iter(exported)
    while compared := list(islice(heads, HEADS_COMPARED)):
        rows = await snapshot.rows(SQL.chains_at, list({head.position for head in compared}))
        chains = {0: GENESIS} | {row["position"]: row["chain"] for row in rows if row["position"]}
        finding.checked_count += len(compared)
        for head in compared:
            if chains[head.position] == head.chain:
                agreed = max(agreed, head.position)
            else:
                finding.fault_count += 1
                wrong = [min([*wrong, (head, chains[head.position])], key=lambda pair: pair[0].position)]
    for head, chain in wrong:
        _add_fault(finding, head, chain, agreed=agreed, end=end)
    if finding.checked_count == 0:
        finding.warnings.append(f"{exported.path} contains no head, so a missing tail can't be detected")
    return [finding]


def _add_fault(finding: Finding, head: ExportedHead, chain: bytes | None, *, agreed: int, end: int) -> None:
    if chain is not None:
        found = f"chain {chain.hex()}: history was rewritten at positions {agreed + 1} to {head.position}"
    elif head.position > end:
        found = f"no such position: the journal ends at {end}, its tail was cut off (or this is an older copy)"
    else:
        found = "no such position"
    finding.add_fault(
        "journal",
        f"position {head.position}",
        expected=f"chain {head.chain.hex()}, exported {head.exported_at} (line {head.line})",
        found=found,
        count=0,
    )
