"""The OpenAPI document says what is served, whole and without a dangling reference."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from wallet.api.app import ROUTES
from wallet.api.contract.openapi import document
from wallet.api.contract.problems import KINDS, Code
from wallet.api.routes.pages import SWAGGER_ROUTES
from wallet.domain.events import EVENT_TYPES
from wallet.version import version
from wallet.wire.schemas import payload_schema

NOT_DOCUMENTED = {"/", "/openapi.json", "/docs-json", "/docs", "/api", "/docs/assets/{name}"}
# What no operation can cause: there is no such route to document, or no such method.
ONLY_OUTSIDE_OF_ROUTES = {Code.ROUTE_NOT_FOUND, Code.METHOD_NOT_ALLOWED}

OPERATIONS = [
    pytest.param(operation, id=operation["operationId"])
    for methods in document(ROUTES)["paths"].values()
    for operation in methods.values()
]


def everything_in(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from everything_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from everything_in(value)


def documented_codes(operation: dict[str, Any]) -> set[str]:
    problems = (response["content"].get("application/problem+json", {}) for response in operation["responses"].values())
    return {code for problem in problems for code in problem.get("examples", {})}


def test_every_route_of_the_table_is_documented_or_known_not_to_be() -> None:
    documented = {(path, method.upper()) for path, methods in document(ROUTES)["paths"].items() for method in methods}
    served = {(path, route.method) for route in (*ROUTES, *SWAGGER_ROUTES) for path in (route.path, *route.aliases)}
    assert served - documented == {(path, "GET") for path in NOT_DOCUMENTED}
    assert documented <= served
    handlers = [route.handler for route in (*ROUTES, *SWAGGER_ROUTES)]
    assert len(set(handlers)) == len(handlers)


def test_every_reference_leads_somewhere() -> None:
    whole = document(ROUTES)
    references = {node["$ref"] for node in everything_in(whole) if "$ref" in node}
    assert references
    for reference in references:
        found = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_every_code_is_documented_somewhere() -> None:
    operations = [operation for methods in document(ROUTES)["paths"].values() for operation in methods.values()]
    found = {code for operation in operations for code in documented_codes(operation)}
    assert found == {code.value for code in Code} - {code.value for code in ONLY_OUTSIDE_OF_ROUTES}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_problem_is_documented_under_its_status(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        examples = response["content"].get("application/problem+json", {}).get("examples", {})
        assert all(KINDS[Code(code)].status == int(status) for code in examples)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_path_parameter_is_described(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert all(parameter["description"] for parameter in operation["parameters"])


def test_the_document_names_its_version_licence_and_server() -> None:
    whole = document(ROUTES)
    assert whole["info"]["version"] == version()
    assert whole["info"]["license"] == {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
    assert [server["url"] for server in whole["servers"]] == ["/"]


def test_a_history_item_is_one_of_the_event_types_distinguished_by_its_type() -> None:
    components = document(ROUTES)["components"]["schemas"]
    item = components["HistoryItem"]
    assert item["discriminator"]["propertyName"] == "type"
    assert item["discriminator"]["mapping"].keys() == EVENT_TYPES.keys()
    assert [choice["$ref"] for choice in item["oneOf"]] == list(item["discriminator"]["mapping"].values())
    for event_type, reference in item["discriminator"]["mapping"].items():
        properties = components[reference.rpartition("/")[2]]["properties"]
        assert properties["type"]["const"] == event_type
        payload = components[properties["payload"]["$ref"].rpartition("/")[2]]
        assert payload == payload_schema(event_type)


PRIVATE_WORDS = re.compile(r"\b(is made|makes it|anew|nobody|for ever|our logs|They can|It is)\b")


def test_no_public_text_is_a_fragment_or_in_private_words() -> None:
    texts = [
        node[name]
        for node in everything_in(document(ROUTES))
        for name in ("description", "summary")
        if isinstance(node.get(name), str)
    ]
    assert len(texts) > 100
    assert [text for text in texts if PRIVATE_WORDS.search(text)] == []
    sentences = [text for text in texts if text.endswith(".")]
    assert [text for text in sentences if len(text.split()) < 2] == []


def test_the_document_is_always_the_same() -> None:
    assert document(ROUTES) == document(ROUTES)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_example_is_what_its_schema_describes(operation: dict[str, Any]) -> None:
    contents = [response["content"] for response in operation["responses"].values()]
    contents.append(operation.get("requestBody", {}).get("content", {}))
    for described in (media for content in contents for media in content.values()):
        whole = {**described["schema"], "components": document(ROUTES)["components"]}
        validator = jsonschema_rs.validator_for(whole, validate_formats=True)
        for example in described.get("examples", {}).values():
            assert [error.message for error in validator.iter_errors(example["value"])] == []
