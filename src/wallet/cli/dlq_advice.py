"""What an operator can do about a dead letter, told from what is known of it."""

from wallet.dead_letters.details import Details
from wallet.dead_letters.letters import Kind, State


def advice(details: Details) -> list[str]:
    """A few lines, the first the most important."""
    letter = details.letter
    match letter.state:
        case State.DISCARDED if details.waiting_event is not None:
            return [
                "It was discarded although its event is in the log and has had no effect.",
                (
                    f"`wallet dlq replay {letter.letter_id} --force` takes the discard back; if the replay fails, "
                    "`wallet rebuild` gives the effect."
                ),
            ]
        case State.DISCARDED:
            return [f"Nothing. `wallet dlq replay {letter.letter_id} --force` takes the discard back."]
        case State.REPLAYED:
            return _about_replayed(details)
        case State.OPEN:
            return _about_open(details)


def _about_replayed(details: Details) -> list[str]:
    letter = details.letter
    if letter.took_effect_at is not None:
        return ["Nothing: its event took effect."]
    if letter.event_id is None:
        return ["Nothing: should it fail again, it opens again."]
    return [
        "Wait for the worker: the event has not taken effect yet. Does one run?",
        f"Was the worker's queue emptied, publish it again: `wallet dlq replay {letter.letter_id} --force`.",
    ]


def _about_open(details: Details) -> list[str]:
    letter = details.letter
    replay, discard = f"`wallet dlq replay {letter.letter_id}`", f"`wallet dlq discard {letter.letter_id} --reason …`"
    if letter.took_effect_at is not None:
        if details.refusal is None:
            return [f"Its event took effect, so nothing is missing. {replay} closes it, and counts nothing twice."]
        return [f"Its event took effect, so nothing is missing, and a replay would fail again. {discard} closes it."]
    if details.refusal is None:
        return [f"This program can read it now: once its handler is mended, {replay}."]
    if letter.kind is Kind.PARKED:
        return [
            "Nobody is at fault: a newer program wrote it. A replay by this one would park it again.",
            f"Upgrade this program and its workers, then {replay}.",
        ]
    if details.waiting_event is None:
        return [f"A replay would fail again: {details.refusal}", f"Find out who sent it; then {discard} closes it."]
    wallet_id, version = details.waiting_event
    return [
        f"A replay would fail again: {details.refusal}",
        (
            f"Find out who sent it. The event that it names is in the log (wallet {wallet_id}, version {version}) "
            "and has had no effect: this message can't give it, `wallet rebuild` does."
        ),
        f"Then {discard} closes it; until then it is refused.",
    ]
