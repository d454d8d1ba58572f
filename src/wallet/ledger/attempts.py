"""The attempts of this process, by key. They decide whether a 503 may be `not_executed`.

A client that receives `not_executed` may assume that its command will never take effect. So the ledger returns
`not_executed` for a key only if no other attempt of this process with that key can still take effect. An attempt that
can is either

- *under way*: its request waits, runs, or is a step of a transfer that this process drives; or
- *uncertain*: it ended with OutcomeUnknown, or with another error that does not state its effect. Its batch may still
  be tried again, or its COMMIT may wait in the server (for a synchronous standby, or a slow disk) on a connection that
  was dropped long ago.

A key stays uncertain until a request with it receives the stored outcome. After that, the key can have no other
outcome. An answer of 422 (the key is used for another request) does not end the uncertainty, because the stored request
may be a transfer that has not ended. A rollback does not end it either, because it concerns only one of the attempts.

Bounds: UNCERTAIN_MAX keys. A further key can't be stored, so from then on every key counts as uncertain: every refusal
is OutcomeUnknown until the process is restarted. This answer is correct but less precise, and clients react in the same
way: they retry with the same key. Attempts of other processes, or of this process before a restart, are not covered.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from types import TracebackType
from typing import Final, Self

import structlog

from wallet.domain.batch import Decision
from wallet.domain.identifiers import OperationKey, RequestId, WalletId
from wallet.domain.outcomes import KeyReused
from wallet.ledger.requests import CommandFailed, NotExecuted, OutcomeUnknown

UNCERTAIN_MAX: Final = 65_536
"""About 20 MB with the longest common keys, and one minute of unknown outcomes at a thousand requests a second."""

log = structlog.get_logger()


class Attempts:
    """The attempts of one process. No method awaits anything."""

    def __init__(self, uncertain_max: int = UNCERTAIN_MAX) -> None:
        self._uncertain_max = uncertain_max
        self._under_way: dict[OperationKey, int] = {}
        self._uncertain: set[OperationKey] = set()
        self._has_forgotten = False

    def may_still_commit(self, keys: Iterable[OperationKey]) -> bool:
        """Returns whether an attempt with one of these keys is under way, or ended with an unknown outcome."""
        return self._has_forgotten or any(key in self._under_way or key in self._uncertain for key in keys)

    def may_concern(self, wallet_id: WalletId | None, request_id: RequestId | None) -> bool:
        """Returns whether an earlier attempt that matches this wallet and key can still take effect.

        None matches any wallet or key. This compares every attempt, so use it only for requests that are
        refused early.
        """
        if wallet_id is not None and request_id is not None:
            return self.may_still_commit([OperationKey(wallet_id, request_id)])
        return self._has_forgotten or any(
            wallet_id in (None, key.wallet_id) and request_id in (None, key.request_id)
            for key in chain(self._under_way, self._uncertain)
        )

    def attempt(self, keys: Sequence[OperationKey]) -> "Attempt":
        """Returns a context in which these keys are under way."""
        return Attempt(self, keys)

    def begin(self, keys: Sequence[OperationKey]) -> None:
        """Record that one more attempt with each of these keys is under way."""
        under_way = self._under_way
        for key in keys:
            under_way[key] = under_way.get(key, 0) + 1

    def end(self, keys: Sequence[OperationKey]) -> None:
        """Record that an attempt with these keys is no longer under way."""
        under_way = self._under_way
        for key in keys:
            if under_way[key] == 1:
                del under_way[key]
            else:
                under_way[key] -= 1

    def note_unknown(self, keys: Sequence[OperationKey]) -> None:
        """Record that an attempt with these keys ended, and may still take effect."""
        for key in keys:
            if len(self._uncertain) < self._uncertain_max:
                self._uncertain.add(key)
            elif key not in self._uncertain and not self._has_forgotten:
                self._has_forgotten = True
                log.error("uncertain_keys_full", limit=self._uncertain_max)

    def note_outcomes(self, keys: Sequence[OperationKey], decisions: Sequence[Decision]) -> None:
        """Record that a request with these keys was answered with their stored outcomes."""
        if self._uncertain:
            self._uncertain.difference_update(
                key for key, decision in zip(keys, decisions, strict=True) if not isinstance(decision, KeyReused)
            )


class Attempt:
    """One attempt with some keys, as a context manager.

    It replaces NotExecuted by OutcomeUnknown if another attempt with one of the keys can still take effect.
    """

    __slots__ = ("_attempts", "_distinct_keys", "_keys", "decisions")

    def __init__(self, attempts: Attempts, keys: Sequence[OperationKey]) -> None:
        self._attempts = attempts
        self._keys = keys
        # A key that occurs twice in a request counts once. Otherwise the request would count as two attempts with it.
        self._distinct_keys = keys if len(keys) == 1 else tuple(dict.fromkeys(keys))
        self.decisions: Sequence[Decision] | None = None
        """The decision of each key. It is set when the request has its complete answer."""

    def __enter__(self) -> Self:
        self._attempts.begin(self._distinct_keys)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._attempts.end(self._distinct_keys)
        if error is None:
            if self.decisions is not None:
                self._attempts.note_outcomes(self._keys, self.decisions)
        elif isinstance(error, NotExecuted):
            if self._attempts.may_still_commit(self._distinct_keys):
                raise OutcomeUnknown(f"{error} An earlier attempt may still take effect.".lstrip()) from error
        elif not isinstance(error, CommandFailed):
            self._attempts.note_unknown(self._distinct_keys)
