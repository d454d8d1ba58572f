"""A request's ids are taken from the caller where they are well-formed, and made where not."""

import re

import pytest

from wallet.api.edge.exchange import correlate

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00")


def test_well_formed_ids_are_kept() -> None:
    assert correlate("order-4711", GIVEN) == ("order-4711", GIVEN)


def test_without_an_id_the_trace_is_the_id() -> None:
    assert correlate(None, GIVEN) == ("4bf92f3577b34da6a3ce929d0e0e4736", GIVEN)


@pytest.mark.parametrize(
    "traceparent",
    [
        None, "", "00", GIVEN.upper(), GIVEN + "-00", "ff" + GIVEN[2:], GIVEN.replace("4bf9", "4bg9"), GIVEN + "\n",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_not_well_formed_is_replaced(traceparent: str | None) -> None:
    correlation_id, made = correlate(None, traceparent)
    assert TRACEPARENT.fullmatch(made)
    assert made.split("-")[1] == correlation_id


@pytest.mark.parametrize("given", ["", "a b", "a\r\nb", "é", "x" * 129, "-a"])
def test_a_request_id_that_is_not_well_formed_is_replaced(given: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", correlate(given, None)[0])
