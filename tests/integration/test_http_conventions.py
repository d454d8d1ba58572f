"""What holds on every route: strict query parameters, trailing slashes, methods, and files that are compressed."""

import gzip
import json
from typing import Final

import pytest

from tests.support.api import RunningApi, head, running_api
from tests.support.database import fetch_rows
from tests.support.raw_http import RawAnswer
from wallet.api.app import ROUTES

JSON_BODY: Final = '{"amount":1,"requestId":"k"}'
GET_PATHS: Final = [route.path.replace("{id}", "alice") for route in ROUTES if route.tag and route.method == "GET"]
POST_PATHS: Final = [route.path.replace("{id}", "alice") for route in ROUTES if route.method == "POST"]
PAGES: Final = ["/", "/docs", "/api", "/docs/assets/start.js", "/openapi.json", "/docs-json"]


def error_of(answer: RawAnswer) -> tuple[str, str]:
    (error,) = answer.json["errors"]
    return error["parameter"], error["detail"]


@pytest.mark.parametrize("path", [*GET_PATHS, *PAGES])
async def test_an_unknown_query_parameter_is_refused_on_every_route_that_reads(database_url: str, path: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.get(f"{path}?at=2026-01-01T00:00:00Z")
    assert (answer.status, answer.code) == (400, "invalid_request")
    name, detail = error_of(answer)
    assert name == "at"
    known = "known are limit, cursor, before" if path.endswith("/history") else "it takes none"
    assert detail == f"is not a query parameter of this route; {known}"
    assert answer.json["detail"] == f"at {detail}."


@pytest.mark.parametrize("path", POST_PATHS)
async def test_an_unknown_query_parameter_of_a_command_is_refused_and_nothing_moves(
    database_url: str, path: str
) -> None:
    async with running_api(database_url) as api:
        answer = await api.post(f"{path}?dryRun=true", JSON_BODY)
        wallet = await api.get("/wallet/alice")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert error_of(answer) == ("dryRun", "is not a query parameter of this route; it takes none")
    assert wallet.json["exists"] is False


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&limit=1", "limit=1&%6cimit=1"])
async def test_a_repeated_query_parameter_is_refused(database_url: str, query: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.get(f"/wallet/alice/history?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert error_of(answer) == ("limit", "is given twice")


async def test_an_empty_query_is_no_parameter(database_url: str) -> None:
    async with running_api(database_url) as api:
        assert (await api.get("/wallet/alice?")).status == 200
        assert (await api.get("/wallet/alice/history?limit=7&")).status == 200


@pytest.mark.parametrize("path", [*GET_PATHS, "/docs", "/api", "/docs/assets/start.js", "/openapi.json", "/docs-json"])
async def test_a_trailing_slash_leads_to_the_same_answer(database_url: str, path: str) -> None:
    async with running_api(database_url) as api:
        plain, slashed, twice = [await api.get(f"{path}{end}") for end in ("", "/", "//")]
    assert (slashed.status, slashed.headers["content-type"]) == (200, plain.headers["content-type"])
    assert twice.status >= 400
    if path != "/metrics":
        assert without_times(slashed.body) == without_times(plain.body)


def without_times(body: bytes) -> object:
    """The body, without the times that differ between two reads."""
    if not body.startswith(b"{"):
        return body
    return {name: value for name, value in json.loads(body).items() if name not in ("now", "asOf")}


async def test_a_trailing_slash_of_a_command_leads_to_its_route(database_url: str) -> None:
    async with running_api(database_url) as api:
        first = await api.post("/wallet/alice/deposit/", JSON_BODY)
        again = await api.post("/wallet/alice/deposit", JSON_BODY)
    assert first.status == 201
    assert (again.body, again.headers["idempotency-replayed"]) == (first.body, "true")


async def test_a_bulk_request_with_a_trailing_slash_may_be_as_long(database_url: str) -> None:
    operation = {"type": "deposit", "walletId": "alice", "amount": "1", "requestId": "k"}
    operations = [operation | {"requestId": f"{number:0128d}"} for number in range(500)]
    body = json.dumps({"mode": "independent", "operations": operations})
    assert len(body) > 64 * 1024
    async with running_api(database_url) as api:
        answer = await api.post("/operations/", body)
    assert answer.status == 200
    assert {result["status"] for result in answer.json["results"]} == {201}


async def test_the_root_leads_to_the_documentation(database_url: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.get("/")
    assert (answer.status, answer.headers["location"]) == (302, "/docs")
    async with running_api(database_url, enable_swagger=False) as api:
        answer = await api.get("/")
    assert (answer.status, answer.code) == (404, "route_not_found")
    assert "/openapi.json" in answer.json["detail"]


async def test_the_document_is_served_under_both_names(database_url: str) -> None:
    async with running_api(database_url, enable_swagger=False) as api:
        assert (await api.get("/docs-json")).body == (await api.get("/openapi.json")).body


@pytest.mark.parametrize(
    ("path", "methods"),
    [*((path, {"GET", "HEAD", "OPTIONS"}) for path in [*GET_PATHS, *PAGES]),
     *((path, {"POST", "OPTIONS"}) for path in POST_PATHS)],
)  # fmt: skip
async def test_options_and_a_refused_method_name_the_same_methods(
    database_url: str, path: str, methods: set[str]
) -> None:
    async with running_api(database_url) as api:
        options = await api.send(head("OPTIONS", path))
        refused = [await api.send(head(method, path, "Content-Length: 0")) for method in ("PATCH", "BREW")]
    assert (options.status, options.body) == (204, b"")
    assert {(answer.status, answer.code) for answer in refused} == {(405, "method_not_allowed")}
    for answer in (options, *refused):
        assert set(answer.headers["allow"].split(", ")) == methods


async def test_a_preflight_is_granted_nothing(database_url: str) -> None:
    """Without CORS headers a browser refuses the request that it asks about, whatever the status is."""
    asked = ("Origin: https://shop.example", "Access-Control-Request-Method: POST")
    async with running_api(database_url) as api:
        answer = await api.send(head("OPTIONS", "/wallet/alice/deposit", *asked))
        unknown = await api.send(head("OPTIONS", "/nowhere", *asked))
    assert answer.status == 204
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert unknown.status == 404


@pytest.mark.parametrize("path", [*GET_PATHS, *PAGES])
async def test_head_answers_like_get_without_the_body(database_url: str, path: str) -> None:
    async with running_api(database_url) as api:
        whole, short = await api.get(path), await api.send(head("HEAD", path))
    assert (short.status, short.body) == (whole.status, b"")
    assert short.headers.keys() == whole.headers.keys()


async def get_file(api: RunningApi, path: str, *headers: str) -> RawAnswer:
    answer = await api.get(path, *headers)
    assert "Accept-Encoding" in answer.headers["vary"]
    return answer


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"]
)
async def test_a_file_is_compressed_for_those_who_take_it(database_url: str, path: str) -> None:
    async with running_api(database_url) as api:
        raw = await get_file(api, path)
        packed = await get_file(api, path, "Accept-Encoding: br, gzip;q=0.8")
        short = await api.send(head("HEAD", path, "Accept-Encoding: gzip"))
        declined = await get_file(api, path, "Accept-Encoding: gzip;q=0, *")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == raw.body
    assert len(packed.body) < len(raw.body) * 0.6
    assert short.headers["content-length"] == str(len(packed.body))
    assert "content-encoding" not in raw.headers.keys() | declined.headers.keys()
    assert declined.body == raw.body
    assert raw.headers["etag"] != packed.headers["etag"]


async def test_the_page_with_its_files_is_sent_in_less_than_640_kib(database_url: str) -> None:
    names = ("swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-ui.css", "start.js")
    async with running_api(database_url) as api:
        answers = [await api.get(f"/docs/assets/{name}", "Accept-Encoding: gzip") for name in names]
    assert sum(len(answer.body) for answer in answers) < 640 * 1024


async def test_an_image_is_not_compressed_again(database_url: str) -> None:
    async with running_api(database_url) as api:
        answer = await api.get("/docs/assets/favicon-32x32.png", "Accept-Encoding: gzip")
    assert "content-encoding" not in answer.headers


async def test_a_file_that_the_client_has_is_not_sent_again(database_url: str) -> None:
    path = "/docs/assets/swagger-ui.css"
    async with running_api(database_url) as api:
        raw, packed = await get_file(api, path), await get_file(api, path, "Accept-Encoding: gzip")
        for answer, *accepted in ((raw,), (packed, "Accept-Encoding: gzip")):
            again = await get_file(api, path, f'If-None-Match: "other", W/{answer.headers["etag"]}', *accepted)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["cache-control"] == answer.headers["cache-control"]
        changed = await get_file(api, path, 'If-None-Match: "other"')
    assert changed.status == 200


async def test_a_refused_query_of_a_command_has_its_audit_row(database_url: str) -> None:
    async with running_api(database_url) as api:
        await api.post("/wallet/alice/deposit?dryRun=1&token=s3cret", JSON_BODY)
    row, *_ = await fetch_rows(database_url, "select url, status from api_audit")
    assert tuple(row) == ("/wallet/alice/deposit?dryRun=1&token=[redacted]", 400)
