"""Bulk answers: results joined from the bytes of single routes, and refusals that name the operation."""

import json

import pytest

from wallet.api.contract.reply import render, render_atomic_refusal
from wallet.api.routes.bulk import joined
from wallet.domain.identifiers import OperationKey, RequestId, WalletId
from wallet.domain.money import ZERO
from wallet.domain.outcomes import KeyReused, Moved, Outcome, Rejected, Rejection
from wallet.ledger.requests import Answer

KEY = OperationKey(WalletId("alice"), RequestId("key"))
ATOMIC_FINGERPRINT = f"atomic:{'ab' * 32}:17"


def detail_of(answer: Answer) -> str:
    return str(json.loads(answer.body)["detail"])


def test_the_bodies_of_results_are_not_touched() -> None:
    bodies = [b'{"a":1}', b'{"b": "\xc3\xa9", "%s": "%d"}']
    whole = joined([Answer(201, bodies[0]), Answer(400, bodies[1], replayed=True)])
    assert whole == (
        b'{"results":[{"status":201,"replayed":false,"body":' + bodies[0] + b'},'
        b'{"status":400,"replayed":true,"body":' + bodies[1] + b"}]}"
    )  # fmt: skip


def test_no_results_are_an_empty_list() -> None:
    assert json.loads(joined([])) == {"results": []}


@pytest.mark.parametrize("reason", [reason for reason in Rejection if reason is not Rejection.TRANSFER_FAILED])
def test_a_refused_atomic_request_names_the_operation(reason: Rejection) -> None:
    refused = render_atomic_refusal(KEY, 0, Rejected(reason, "It is so."))
    alone = render(KEY, Rejected(reason, "It is so."))
    problem = json.loads(refused.body)
    assert (refused.status, problem["code"]) == (alone.status, reason.value)
    assert (problem["index"], problem["requestId"]) == (0, "key")
    assert problem["detail"].startswith("Operation 0: It is so. ")
    assert "index" not in json.loads(alone.body)


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [
        ("deposit:1.0000:", "has used this key for a deposit of 1.0000"),
        ("transfer:1.0000:a:b", "has used this key for a transfer of 1.0000 to a:b"),
        (ATOMIC_FINGERPRINT, "has used this key in an atomic request"),
        ("", "some keys of this request were used before and this one was not"),
    ],
)
def test_an_atomic_request_with_a_used_key_is_answered_with_its_earlier_use(fingerprint: str, said: str) -> None:
    refused = render_atomic_refusal(KEY, 999, KeyReused(fingerprint))
    problem = json.loads(refused.body)
    assert (refused.status, problem["code"], problem["index"]) == (422, "idempotency_key_reused", 999)
    assert problem["detail"].startswith("Operation 999: ")
    assert said.lower() in problem["detail"].lower()


def test_a_single_request_with_the_key_of_an_atomic_one_is_refused_with_that_reason() -> None:
    refused = render(KEY, KeyReused(ATOMIC_FINGERPRINT))
    assert refused.status == 422
    assert detail_of(refused) == (
        "Wallet alice has used this key in an atomic request. Use a new key for a new request; nothing moved."
    )


def test_an_operation_that_took_effect_refuses_nothing() -> None:
    with pytest.raises(AssertionError):
        render_atomic_refusal(KEY, 1, Moved(ZERO, created=True))


@pytest.mark.parametrize("outcome", [Rejected(Rejection.WALLET_NOT_FOUND, "No."), KeyReused(ATOMIC_FINGERPRINT)])
def test_the_same_refusal_is_always_the_same_bytes(outcome: Outcome) -> None:
    assert render_atomic_refusal(KEY, 3, outcome) == render_atomic_refusal(KEY, 3, outcome)
