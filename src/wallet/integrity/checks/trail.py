"""I18: each outcome has a row of the audit trail that agrees with it, unless a record of pruning covers the row.

The check can't detect: a change of a row's headers, client address or query; a change of its time by less than a day; a
change of its body together with the body's digest; a change after the first 4 KiB of a longer body. It also can't
detect changes to rows of POSTs that stored no outcome (replays, and requests refused before the ledger), unless the
rows state that money moved. The trail has no chain.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID

from asyncpg import Record

from wallet.domain.identifiers import NO_WALLET_BUCKET
from wallet.integrity.findings import Check, Finding
from wallet.integrity.snapshot import SQL, Snapshot

_POST: Final = "POST"


async def prove_trail(snapshot: Snapshot) -> list[Finding]:
    """Read the outcomes whose row is missing or differs, and leave out those that were pruned."""
    finding = Finding(Check.TRAIL, "outcome")
    [count] = await snapshot.rows(SQL.operation_count)
    finding.checked_count = count["count"]
    pruned = PrunedRows(await snapshot.rows(SQL.pruned_ranges))
    first: Any = None
    async with snapshot.joining_whole_tables():
        async for rows in snapshot.stream(SQL.operations_unlike_their_trail):
            for row in rows:
                if row["is_missing"] and pruned.covers(row["bucket"], row["api_audit_id"]):
                    continue
                if row["agrees"] and _is_path_right(row):
                    continue
                finding.fault_count += 1
                first = row if first is None else min(first, row, key=_key)
    if first is not None:
        finding.add_fault("api_audit", _name(first), expected=_expected(first), found=_found(first), count=0)
    planted = await snapshot.row(SQL.trail_rows_without_outcome)
    if planted is not None:
        name = f"{planted['api_audit_id']} (wallet {planted['wallet_id']}, request {planted['request_id']})"
        found = f"status {planted['status']}, and no outcome"
        finding.add_fault(
            "api_audit", name, expected="an outcome of this key", found=found, count=planted["fault_count"]
        )
    return [finding]


def _is_path_right(row: Record) -> bool:
    """Returns whether a path with escapes matches the outcome; the statement has already compared paths without
    escapes.
    """
    expected = "/operations" if row["is_of_many"] else f"/wallet/{row['wallet_id']}/{row['kind']}"
    return "%" in row["path"] and unquote(row["path"]).removesuffix("/") == expected


class PrunedRows:
    """The ranges of audit ids that records of pruning cover, by bucket."""

    def __init__(self, ranges: Iterable[Record]) -> None:
        self._firsts: dict[int, list[UUID]] = {}
        self._lasts: dict[int, list[UUID]] = {}
        for bucket, first_id, last_id in ranges:  # In the order of their first ids.
            firsts, lasts = self._firsts.setdefault(bucket, []), self._lasts.setdefault(bucket, [])
            if lasts and first_id <= lasts[-1]:
                lasts[-1] = max(lasts[-1], last_id)
            else:
                firsts.append(first_id)
                lasts.append(last_id)

    def covers(self, bucket: int, api_audit_id: UUID) -> bool:
        """Returns whether a row with this id, in this bucket or without a wallet, was pruned."""
        return self._has(bucket, api_audit_id) or self._has(NO_WALLET_BUCKET, api_audit_id)

    def _has(self, bucket: int, api_audit_id: UUID) -> bool:
        place = bisect_right(self._firsts.get(bucket, ()), api_audit_id)
        return place > 0 and api_audit_id <= self._lasts[bucket][place - 1]


def _key(row: Record) -> tuple[int, str, str]:
    return row["bucket"], row["wallet_id"], row["request_id"]


def _name(row: Record) -> str:
    return f"{row['api_audit_id']} (wallet {row['wallet_id']}, request {row['request_id']})"


def _expected(row: Record) -> str:
    return f"{_POST} of a {row['kind']} with this wallet and request id, or of a bulk request, status {row['status']}"


def _found(row: Record) -> str:
    if row["is_missing"]:
        return "no row, and no record of pruning that covers it"
    body = "" if row["is_body_intact"] else ", and a body that does not match its digest"
    body += "" if row["is_in_time"] else ", and a time that does not match its id"
    return (
        f"{row['method']} {row['path']}, wallet {row['trail_wallet_id']}, request {row['trail_request_id']}, "
        f"status {row['trail_status']}{body}"
    )
