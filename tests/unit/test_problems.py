"""The one table of problems is complete, and its documents are stable."""

import json

import pytest

from wallet.api.contract.problems import (
    CODE_OF_REJECTION,
    KINDS,
    Code,
    FieldError,
    Refused,
    problem_body,
    refusal_of,
    type_of,
)
from wallet.domain.identifiers import RequestId
from wallet.domain.outcomes import Rejection


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_and_a_title(code: Code) -> None:
    assert 400 <= KINDS[code].status < 600
    assert KINDS[code].title


@pytest.mark.parametrize("rejection", Rejection)
def test_every_rejection_is_shown_under_its_own_name(rejection: Rejection) -> None:
    assert CODE_OF_REJECTION[rejection].value == rejection.value


def test_the_business_refusals_have_the_statuses_that_clients_know() -> None:
    statuses = {rejection: KINDS[CODE_OF_REJECTION[rejection]].status for rejection in Rejection}
    assert statuses == {
        Rejection.WALLET_NOT_FOUND: 404,
        Rejection.INSUFFICIENT_FUNDS: 400,
        Rejection.BALANCE_LIMIT_EXCEEDED: 400,
        Rejection.TRANSFER_FAILED: 409,
    }


def test_a_problem_is_always_the_same_bytes() -> None:
    body = problem_body(Code.INSUFFICIENT_FUNDS, "Not enough.", request_id=RequestId("k"))
    assert body == (
        b'{"type":"urn:wallet:problem:insufficient_funds","title":"The wallet does not hold enough","status":400,'
        b'"detail":"Not enough.","code":"insufficient_funds","message":"Not enough.","statusCode":400,"requestId":"k"}'
    )


def test_what_is_not_known_is_left_out() -> None:
    always = {"type", "title", "status", "detail", "code", "message", "statusCode"}
    assert set(json.loads(problem_body(Code.INTERNAL_ERROR, "Oh."))) == always


@pytest.mark.parametrize("code", Code)
def test_a_problem_repeats_detail_and_status_as_clients_of_the_reference_system_read_them(code: Code) -> None:
    problem = json.loads(problem_body(code, "What happened."))
    assert (problem["message"], problem["statusCode"]) == (problem["detail"], problem["status"])


def test_one_error_gives_the_problem_its_code_and_sentence() -> None:
    refused = refusal_of([FieldError(Code.INVALID_AMOUNT, "must be greater than 0", pointer="/amount")])
    assert refused.code is Code.INVALID_AMOUNT
    assert refused.detail == "amount must be greater than 0."
    assert json.loads(refused.body(None))["errors"] == [
        {"code": "invalid_amount", "detail": "must be greater than 0", "pointer": "/amount"}
    ]


def test_errors_that_disagree_make_the_request_invalid() -> None:
    errors = [FieldError(Code.INVALID_AMOUNT, "is required"), FieldError(Code.SAME_WALLET, "is the same")]
    assert refusal_of(errors).code is Code.INVALID_REQUEST


def test_types_are_names_and_not_addresses() -> None:
    assert all(type_of(code).startswith("urn:wallet:problem:") for code in Code)
    assert Refused(Code.NOT_EXECUTED, "Busy.").status == 503
