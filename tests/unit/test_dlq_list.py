"""The table of dead letters fits its terminal."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from wallet.cli.dlq_views import print_dead_letters
from wallet.dead_letters.reading import DeadLetter, DeadLetterId, DeadLetterKind, DeadLetterState
from wallet.domain.identifiers import EventId, WalletId

AT = datetime(2026, 3, 1, 12, 30, 59, tzinfo=UTC)
EVENT = UUID(int=1)


def letter() -> DeadLetter:
    return DeadLetter(
        dead_letter_id=DeadLetterId(7),
        state=DeadLetterState.OPEN,
        kind=DeadLetterKind.FAILED,
        type="FundsDeposited",
        event_id=EventId(EVENT),
        wallet_id=WalletId("alice"),
        version=2,
        error="RaiseError: a bug",
        attempts=3,
        actor=None,
        reason=None,
        created_at=AT,
        updated_at=AT,
        body_bytes=10,
        took_effect_at=None,
    )


@pytest.mark.parametrize(("columns", "is_one_line"), [(160, True), (100, True), (80, False)])
def test_a_date_is_broken_only_where_there_is_no_room(
    columns: int, is_one_line: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    print_dead_letters([letter()], not_shown=0, with_closed=False, as_json=False)
    shown = capsys.readouterr().out
    assert ("2026-03-01 12:30:59" in shown) is is_one_line
    assert "2026-03-01" in shown
    assert str(EVENT) in shown
