"""Which encoding of a file a client prefers."""

import pytest

from wallet.api.routes.static_files import prefers_gzip


@pytest.mark.parametrize(
    ("header", "is_gzip"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, br", False),
        ("br, gzip", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("gzip ; q=0.1", True),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=0, gzip;q=0.1", True),
        ("gzip;q=high", False),
        ("gzip;q=nan", False),
        ("gzip;q=-1", False),
        ("gzip;q=2", False),
        (";;,,=;q", False),
    ],
)
def test_gzip_is_chosen_where_the_client_takes_it_and_does_not_prefer_the_plain_form(
    header: str | None, is_gzip: bool
) -> None:
    assert prefers_gzip(header) is is_gzip
