"""The time up to which everything is counted never goes past a change that is not, in whatever order things happen."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from wallet.worker.progress import JournalEnds, Progress, Target, advance

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUNS = 200
ACTIONS = 150


@dataclass
class Batch:
    """A batch on its way: begun with its place in the order of insertion, committed, sealed, counted."""

    seq: int
    committed_at: datetime | None = None
    position: int | None = None
    is_counted: bool = False


@dataclass
class Journal:
    """A journal to which several writers commit, which is sealed, and whose events are counted, all in any order."""

    draw: random.Random
    now: datetime = START
    batches: list[Batch] = field(default_factory=list)
    progress: Progress = field(default_factory=lambda: Progress(0, None, None))

    def act(self) -> None:
        """Let time pass, and one thing happen."""
        self.now += timedelta(milliseconds=self.draw.randint(0, 3))
        self.draw.choice(
            [self.begin, self.begin, self.commit, self.commit, self.seal, self.count, self.count, self.step]
        )()

    def begin(self) -> None:
        self.batches.append(Batch(len(self.batches) + 1))

    def commit(self) -> None:
        if begun := [batch for batch in self.batches if batch.committed_at is None]:
            self.draw.choice(begun).committed_at = self.now

    def seal(self) -> None:
        head = self.head()
        # A sealer takes the first ones in the order of insertion, and seldom all of them.
        for batch in self.unsealed()[: self.draw.randint(1, 4)]:
            head += 1
            batch.position = head

    def count(self) -> None:
        if sealed := [batch for batch in self.batches if batch.position and not batch.is_counted]:
            self.draw.choice(sealed).is_counted = True

    def step(self) -> None:
        unsealed = self.unsealed()
        committed = [batch.seq for batch in self.batches if batch.committed_at is not None]
        ends = JournalEnds(self.now, self.head(), unsealed[0].seq if unsealed else None, max(committed, default=0))
        by_position = {batch.position: batch for batch in self.batches if batch.position}
        position = self.progress.position
        while position + 1 in by_position and by_position[position + 1].is_counted:
            position += 1
        self.progress = advance(Progress(position, self.progress.as_of, self.progress.target), ends)

    def head(self) -> int:
        return max((batch.position or 0 for batch in self.batches), default=0)

    def unsealed(self) -> list[Batch]:
        return [batch for batch in self.batches if batch.committed_at is not None and batch.position is None]

    def assert_honest(self) -> None:
        as_of = self.progress.as_of
        if as_of is not None:
            assert as_of <= self.now
            before = [batch for batch in self.batches if batch.committed_at is not None and batch.committed_at < as_of]
            assert [batch for batch in before if not batch.is_counted] == []


def test_every_change_that_was_committed_before_the_time_is_counted(seed: int) -> None:
    moved = 0
    for run in range(RUNS):
        journal = Journal(random.Random(f"{seed} {run}"))
        for _ in range(ACTIONS):
            journal.act()
            journal.assert_honest()
        moved += journal.progress.as_of is not None
        while any(not batch.is_counted for batch in journal.batches):
            for finish in (journal.commit, journal.seal, journal.count):
                finish()
        # At most one step for the target in hand, and one for the present.
        journal.now += timedelta(seconds=1)
        for _ in range(2):
            journal.step()
        journal.assert_honest()
        assert journal.progress.as_of == journal.now
    assert moved > RUNS / 2


def test_it_moves_on_under_a_load_that_never_pauses() -> None:
    journal = Journal(random.Random(1))
    for _ in range(50):
        journal.now += timedelta(milliseconds=500)
        # What was counted last is a batch behind what was sealed last, and there is always one that is not sealed.
        journal.begin()
        journal.batches[-1].committed_at = journal.now
        if len(journal.batches) >= 2:
            journal.batches[-2].position = len(journal.batches) - 1
        if len(journal.batches) >= 3:
            journal.batches[-3].is_counted = True
        journal.step()
        journal.assert_honest()
    assert journal.progress.as_of is not None
    assert journal.now - journal.progress.as_of <= timedelta(seconds=2)


@pytest.mark.parametrize("target", [None, Target(START + timedelta(hours=1), 5)])
def test_a_clock_that_went_back_takes_back_a_time_that_has_not_come_yet(target: Target | None) -> None:
    later = START + timedelta(hours=1)
    ends = JournalEnds(START, head=7, first_unsealed=8, last_seq=8)
    progress = advance(Progress(7, later, target), ends)
    assert progress == Progress(7, None, Target(START, 8))
