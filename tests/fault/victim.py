"""A correct run in which one item can be falsified; everything that depends on it is changed consistently."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from tests.fault.right_ledger import RightLedger
from wallet.stress.exchanges import NoAnswer, ServiceAnswer, TriedRequest
from wallet.stress.histories import ShownEvent
from wallet.stress.operations import WalletId
from wallet.stress.outcomes import ZERO


@dataclass
class Victim:
    """A correct run, and the random choice of what to falsify in it."""

    ledger: RightLedger
    draw: random.Random

    def event(self, *event_types: str) -> tuple[WalletId, int, ShownEvent]:
        """Returns a random event of one of these types, with its wallet and its index."""
        shown = self.ledger.books.shown
        every = [
            (wallet_id, index, event) for wallet_id in shown for index, event in enumerate(shown[wallet_id].events)
        ]
        return self.draw.choice([each for each in every if each[2].type in event_types])

    def put(
        self, wallet_id: WalletId, index: int, *events: ShownEvent, instead_of: int = 1, also: Decimal = ZERO
    ) -> None:
        """Replace events by others, and adjust all later balances and the wallet's balance."""
        shown = self.ledger.books.shown[wallet_id]
        gone = shown.events[index : index + instead_of]
        shift = sum((each.moved for each in events), also) - sum(each.moved for each in gone)
        behind = [moved_up(event, shift) for event in shown.events[index + instead_of :]]
        changed = (*shown.events[:index], *events, *behind)
        self.ledger.books.shown[wallet_id] = replace(shown, balance=shown.balance + shift, events=changed)

    def copy(self, event: ShownEvent, **changes: object) -> ShownEvent:
        """Returns a copy of an event with changes, in a new batch after all others."""
        places = self.ledger.books.places
        again = replace(event, event_id=f"planted-{len(places)}", **changes)  # type: ignore[arg-type]
        places[again.event_id] = (max(places.values())[0] + 1, 0)
        return again

    def exchange(self, fits: Callable[[TriedRequest], bool] = lambda _: True) -> tuple[int, TriedRequest]:
        """Returns a random request that fits, with its index."""
        return self.draw.choice([each for each in enumerate(self.ledger.books.exchanges) if fits(each[1])])

    def replace_tries(self, index: int, *tries: ServiceAnswer | NoAnswer, **changes: float) -> None:
        """Replace the attempts of a request, or its times."""
        exchanges = self.ledger.books.exchanges
        assert isinstance(exchanges, list)
        exchanges[index] = replace(exchanges[index], tries=tries or exchanges[index].tries, **changes)


def moved_up(event: ShownEvent, shift: Decimal) -> ShownEvent:
    assert event.new_balance is not None
    return replace(event, new_balance=event.new_balance + shift)


def is_success(exchange: TriedRequest) -> bool:
    return exchange.answer is not None and exchange.answer.is_success


def is_refused(exchange: TriedRequest) -> bool:
    return not is_success(exchange)


def answer_of(exchange: TriedRequest) -> ServiceAnswer:
    assert exchange.answer is not None
    return exchange.answer
