"""A history page's query is read strictly: cursors, limits, and times exact to the microsecond."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.api.contract.bodies import ERRORS_MAX
from wallet.api.contract.paging import LIMIT_DEFAULT, Order, Page, page_reply, parse_limit
from wallet.api.contract.paging import read_page as read_page_of
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.query import UnreadableValue, parse_time, read_parameters
from wallet.api.routes.reads import BY_VERSION


def read_page(query: str) -> Page[int]:
    return read_page_of(read_parameters(query, ("limit", "cursor", "before")), BY_VERSION)


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_a_cursor_leads_back_to_its_version(version: int) -> None:
    assert BY_VERSION.parse_cursor(BY_VERSION.cursor_after(version)) == version


@pytest.mark.parametrize(
    "text",
    ["", "v1", "djA", "djAx", "LTE", "djE=", "djE\n", " djE", "dj", "é", "ZGpF", "djkyMjMzNzIwMzY4NTQ3NzU4MDg",
     "a" * 9999],
)  # fmt: skip
def test_a_cursor_that_was_not_ours_is_refused(text: str) -> None:
    with pytest.raises(UnreadableValue):
        BY_VERSION.parse_cursor(text)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_a_cursor_of_another_order_is_refused(key: str) -> None:
    with pytest.raises(UnreadableValue):
        BY_VERSION.parse_cursor(Order("w", str).cursor_after(key))


@given(st.text(alphabet="0123456789-:.TZtz+%&=v\x00é\u0665"))
def test_no_query_breaks_the_reader(text: str) -> None:
    for query in (text, f"limit={text}", f"cursor={text}", f"before={text}"):
        try:
            page = read_page(query)
        except Refused as refused:
            assert refused.status == 400  # noqa: PT017 - either ending is fine
        else:
            assert 1 <= page.limit <= 200


@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("050", 50), ("200", 200), ("201", 200), ("9" * 5000, 200)])
def test_a_limit_above_the_most_is_served_as_the_most(text: str, limit: int) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "0", "000", "-1", "+5", "1.5", "1e2", " 5", "5 ", "ten", "\u0665", "1_0", "0x10"])
def test_a_limit_that_is_no_positive_whole_number_is_refused(text: str) -> None:
    with pytest.raises(UnreadableValue):
        parse_limit(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00.5z", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001Z", datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T23:30:00-05:30", datetime(2026, 2, 1, 5, tzinfo=UTC)),
        ("2026-01-31T12:00:00-00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_utc(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


def test_digits_beyond_microseconds_round_up_so_that_earlier_stays_earlier() -> None:
    microsecond = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
    assert parse_time("2026-01-31T12:00:00.123456000Z") == microsecond
    assert parse_time("2026-01-31T12:00:00.123456001Z") == microsecond.replace(microsecond=123_457)
    assert parse_time("2026-12-31T23:59:59.9999999Z") == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31 12:00:00Z", "2026-01-31T12:00Z",
        "2026-01-31T12:00:60Z", "2016-12-31T23:59:60Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-01-31T24:00:00Z", "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00+02:60", "2026-01-31T12:00:00+0200",
        "2026-01-31T12:00:00.Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.9999999Z",
        "2026-01-31T12:00:00Z\n", "12026-01-31T12:00:00Z", "\u0662026-01-31T12:00:00Z", "1767225600",
    ],
)  # fmt: skip
def test_a_time_that_is_not_rfc_3339_or_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UnreadableValue):
        parse_time(text)


def test_a_page_without_a_query_is_the_newest() -> None:
    page = read_page("")
    assert (page.limit, page.after, page.before) == (LIMIT_DEFAULT, None, None)


def test_a_plus_in_a_time_may_be_escaped_or_not() -> None:
    escaped = read_page("before=2026-01-31T12%3A00%3A00%2B02%3A00")
    assert escaped == read_page("before=2026-01-31T12:00:00+02:00")
    assert escaped.before == datetime(2026, 1, 31, 10, tzinfo=UTC)


def test_empty_pairs_are_no_parameters() -> None:
    assert read_page("&limit=7&&").limit == 7


@pytest.mark.parametrize(
    ("query", "shown"),
    [("_=1", "_"), ("Limit=1", "Limit"), ("utm%5fa=1", "utm_a"), ("=", '""'), ("%ff=1", "\ufffd"),
     ("x" * 999, "x" * 64 + "…")],
)  # fmt: skip
def test_a_parameter_that_is_not_known_is_refused_by_its_name(query: str, shown: str) -> None:
    with pytest.raises(Refused) as refused:
        read_page(f"limit=7&{query}")
    (error,) = refused.value.errors
    assert (error.parameter, error.code) == (shown, Code.INVALID_REQUEST)
    assert error.detail == "is not a query parameter of this route; known are limit, cursor, before"


def test_thousands_of_unknown_parameters_give_a_short_answer() -> None:
    with pytest.raises(Refused) as refused:
        read_page("&".join(f"p{number}" for number in range(5000)))
    assert len(refused.value.errors) == ERRORS_MAX


@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=2", "limit=1&limit=1", "limit=1&%6cimit=1", "limit=", "limit", "cursor=", "before=",
        f"cursor={BY_VERSION.cursor_after(5)}&before=2026-01-31T12:00:00Z", "limit=%00", "limit=%ff",
    ],
)  # fmt: skip
def test_a_query_that_is_twice_or_wrong_is_refused(query: str) -> None:
    with pytest.raises(Refused) as refused:
        read_page(query)
    assert refused.value.code is Code.INVALID_REQUEST
    assert all(error.parameter in {"limit", "cursor", "before"} for error in refused.value.errors)


def test_the_filters_of_a_list_are_left_to_it_and_repeated_in_the_link() -> None:
    page = read_page_of(read_parameters("rule=a%26b&limit=1", ("limit", "cursor", "rule")), BY_VERSION)
    assert (page.filters, page.before) == ({"rule": "a&b"}, None)
    reply = page_reply("/alerts", page, BY_VERSION, [7, 6], key_of=int, shape_of=str)
    cursor = BY_VERSION.cursor_after(7)
    assert dict(reply.headers)["Link"] == f'</alerts?rule=a%26b&limit=1&cursor={cursor}>; rel="next"'
