"""Answers have the shapes that the reference system's clients know, and are stable to the byte."""

import json
from decimal import Decimal
from uuid import UUID

from wallet.api.contract.reply import render
from wallet.domain.commands import Transfer
from wallet.domain.events import TransferTerms
from wallet.domain.identifiers import ApiAuditId, OperationKey, RequestId, TransferId, WalletId
from wallet.domain.outcomes import KeyReused, Moved, Rejected, Rejection, Transferred

SOME_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
ALICE, BOB = WalletId("alice"), WalletId("bob")
KEY = OperationKey(ALICE, RequestId("key"))
TRANSFER = Transfer(
    wallet_id=ALICE,
    request_id=KEY.request_id,
    api_audit_id=ApiAuditId(SOME_ID),
    amount=Decimal("25.0000"),
    to_wallet_id=BOB,
    transfer_id=TransferId(SOME_ID),
)
TERMS = TransferTerms(TransferId(SOME_ID), ALICE, BOB, Decimal("25.0000"), "USD")


def test_a_deposit_answers_201_with_the_balance() -> None:
    answer = render(KEY, Moved(Decimal("100.5000"), created=True))
    assert answer.status == 201
    assert answer.success
    assert answer.body == b'{"walletId":"alice","balance":"100.5000","requestId":"key","created":true}'


def test_a_transfer_answers_201_with_both_balances() -> None:
    answer = render(KEY, Transferred(TERMS, Decimal("75.5"), Decimal(25)))
    assert answer.status == 201
    assert answer.body == (
        b'{"transferId":"01890a5d-ac96-774b-bcce-b302099a8057","fromWalletId":"alice","toWalletId":"bob",'
        b'"amount":"25.0000","status":"completed","requestId":"key","fromBalance":"75.5000","toBalance":"25.0000"}'
    )


def test_a_refusal_is_a_problem_with_its_key() -> None:
    answer = render(KEY, Rejected(Rejection.BALANCE_LIMIT_EXCEEDED, "Too much."))
    problem = json.loads(answer.body)
    assert answer.status == problem["status"] == 400
    assert not answer.success
    assert (problem["code"], problem["detail"], problem["requestId"]) == ("balance_limit_exceeded", "Too much.", "key")


def test_a_failed_transfer_is_a_conflict() -> None:
    assert render(KEY, Rejected(Rejection.TRANSFER_FAILED, "The receiver is full.")).status == 409


def test_a_reused_key_says_what_it_was_used_for() -> None:
    answer = render(KEY, KeyReused(TRANSFER.fingerprint))
    problem = json.loads(answer.body)
    assert answer.status == 422
    assert problem["code"] == "idempotency_key_reused"
    assert "a transfer of 25.0000 to bob" in problem["detail"]


def test_the_same_outcome_is_always_the_same_bytes() -> None:
    outcome = Transferred(TERMS, Decimal("75.5"), Decimal(25))
    assert render(KEY, outcome) == render(KEY, outcome)
