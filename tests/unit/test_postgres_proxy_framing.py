"""Messages of PostgreSQL's protocol, however TCP happens to cut the bytes."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.postgres_messages import (
    CANCEL_REQUEST,
    ENCRYPTION_ANSWER,
    ENCRYPTION_REQUEST,
    HEAD_BYTES_MAX,
    STARTUP,
    Framing,
    Message,
    NotPostgres,
)
from tests.support.postgres_proxy import Commit, CutCommit, Loss, PostgresConversation

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
GSSENC_REQUEST = (8).to_bytes(4) + (80877104).to_bytes(4)
CANCEL = (16).to_bytes(4) + (80877102).to_bytes(4) + bytes(range(8))
READY = b"Z\x00\x00\x00\x05I"


def typed(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + (len(body) + 4).to_bytes(4) + body


def startup(**parameters: str) -> bytes:
    words = b"".join(word.encode() + b"\0" for pair in parameters.items() for word in pair)
    body = (196608).to_bytes(4) + words + b"\0"
    return (len(body) + 4).to_bytes(4) + body


def query(text: str) -> bytes:
    return typed("Q", text.encode() + b"\0")


def done(tag: str) -> bytes:
    return typed("C", tag.encode() + b"\0") + READY


def read(framing: Framing, chunks: Sequence[bytes]) -> tuple[list[Message], bytes]:
    pieces = [piece for chunk in chunks for piece in framing.split(chunk)]
    return [piece.message for piece in pieces if piece.message], b"".join(piece.data for piece in pieces)


def split_at(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[begin:end] for begin, end in zip([0, *ends], [*ends, len(data)], strict=True)]


PLACES = st.lists(st.integers(0, 1_000_000), max_size=30)
BODIES = st.binary(max_size=60) | st.integers(HEAD_BYTES_MAX - 2, 3 * HEAD_BYTES_MAX).map(bytes)
MESSAGES = st.lists(st.tuples(st.sampled_from("QPBESXDZ"), BODIES), max_size=8)
BEGINNINGS = st.sampled_from([b"", SSL_REQUEST, GSSENC_REQUEST, GSSENC_REQUEST + SSL_REQUEST])


@given(beginning=BEGINNINGS, messages=MESSAGES, places=PLACES)
def test_any_splitting_of_a_clients_bytes_gives_the_same_messages(
    beginning: bytes, messages: list[tuple[str, bytes]], places: list[int]
) -> None:
    data = beginning + startup(user="u") + b"".join(typed(kind, body) for kind, body in messages)
    seen, passed = read(Framing(from_client=True), split_at(data, places))
    assert passed == data
    assert [message.kind for message in seen[: len(beginning) // 8]] == [ENCRYPTION_REQUEST] * (len(beginning) // 8)
    assert seen[len(beginning) // 8].kind == STARTUP
    assert [(message.kind, message.head, message.body_length) for message in seen[1 + len(beginning) // 8 :]] == [
        (kind, body[:HEAD_BYTES_MAX], len(body)) for kind, body in messages
    ]


@given(messages=MESSAGES, places=PLACES, answer=st.sampled_from([b"", b"N"]))
def test_any_splitting_of_a_servers_bytes_gives_the_same_messages(
    messages: list[tuple[str, bytes]], places: list[int], answer: bytes
) -> None:
    framing = Framing(from_client=False)
    if answer:
        framing.expect_encryption_answer()
    data = answer + b"".join(typed(kind, body) for kind, body in messages)
    seen, passed = read(framing, split_at(data, places))
    assert passed == data
    kinds = [message.kind for message in seen]
    assert kinds == [ENCRYPTION_ANSWER] * len(answer) + [kind for kind, _ in messages]


def test_an_error_instead_of_an_answer_about_encryption_is_a_message() -> None:
    framing = Framing(from_client=False)
    framing.expect_encryption_answer()
    assert read(framing, [typed("E", b"no")])[0] == [Message("E", b"no", 2)]


def test_a_cancel_request_is_known_and_passes() -> None:
    seen, passed = read(Framing(from_client=True), [CANCEL[:5], CANCEL[5:]])
    assert ([message.kind for message in seen], passed) == ([CANCEL_REQUEST], CANCEL)


@pytest.mark.parametrize("answer", [b"S", b"G"])
def test_after_an_encrypted_beginning_everything_passes_as_it_is(answer: bytes) -> None:
    conversation, _ = conversation_losing(Loss.COMMIT)
    assert conversation.to_server(SSL_REQUEST) == SSL_REQUEST
    assert conversation.to_client(answer) == answer
    secret = b"\x16\x03\x01" + query("commit") + bytes(range(256))
    assert conversation.to_server(secret) == secret
    assert conversation.to_client(secret) == secret
    assert not conversation.is_to_be_cut


def test_encryption_from_the_first_byte_passes_as_it_is() -> None:
    seen, passed = read(Framing(from_client=True), [b"\x16\x03", b"\x01\x00anything"])
    assert (seen, passed) == ([], b"\x16\x03\x01\x00anything")


@pytest.mark.parametrize(
    ("data", "from_client"), [(b"GET / HTTP/1.1\r\n", True), (b"Z\x00\x00\x00\x03", False), (bytes(8), True)]
)
def test_what_is_not_postgres_is_said_so(data: bytes, from_client: bool) -> None:
    with pytest.raises(NotPostgres):
        read(Framing(from_client=from_client), [data])


def conversation_losing(loss: Loss, number: int = 1) -> tuple[PostgresConversation, list[CutCommit]]:
    """A conversation that loses one COMMIT, and what it reports."""
    reports: list[CutCommit] = []
    count = 0

    def loss_of(application_name: str) -> tuple[Commit, Loss | None]:
        nonlocal count
        count += 1
        return Commit(count, application_name), loss if count == number else None

    return PostgresConversation(loss_of, reports.append), reports


@pytest.mark.parametrize(
    "text", ["commit", "COMMIT;", " \n Commit ; ", "commit work", "COMMIT TRANSACTION;", "end", "END;;"]
)
@given(places=PLACES)
def test_a_commit_is_known_however_it_is_written_and_split(text: str, places: list[int]) -> None:
    conversation, reports = conversation_losing(Loss.COMMIT)
    begun = startup(user="u", application_name="me") + query("select 1")
    passed = b"".join(conversation.to_server(chunk) for chunk in split_at(begun + query(text), places))
    assert passed == begun
    assert conversation.is_to_be_cut
    conversation.end()
    assert reports == [CutCommit(Commit(1, "me"), Loss.COMMIT, None)]


@pytest.mark.parametrize("text", ["commit prepared 'x'", "select 'commit'", "commits", "rollback", "", "-- commit"])
def test_what_only_looks_like_a_commit_passes(text: str) -> None:
    conversation, _ = conversation_losing(Loss.COMMIT)
    data = startup(user="u") + query(text) + typed("P", b"s\0" + text.encode() + b"\0\0\0")
    data += typed("B", b"\0s\0") + typed("E", b"\0\0\0\0\0") + typed("S")
    assert conversation.to_server(data) == data
    assert not conversation.is_to_be_cut


EXECUTE = typed("E", b"p\0\0\0\0\0")
PREPARED = startup(user="u") + typed("P", b"s\0commit\0\0\0") + typed("S")


def test_a_prepared_commit_is_lost_where_it_is_executed() -> None:
    conversation, _ = conversation_losing(Loss.COMMIT)
    passed = conversation.to_server(PREPARED + typed("B", b"p\0s\0") + EXECUTE + typed("S"))
    assert passed == PREPARED + typed("B", b"p\0s\0")
    assert conversation.is_to_be_cut


def test_a_prepared_commit_goes_on_to_its_sync_and_only_its_unit_goes_unanswered() -> None:
    conversation, reports = conversation_losing(Loss.ANSWER)
    unit = typed("B", b"p\0s\0") + EXECUTE + typed("S")
    assert conversation.to_server(PREPARED + unit + query("select 1")) == PREPARED + unit
    assert conversation.to_server(query("select 2")) == b""
    before = typed("R") + READY + typed("1") + READY
    assert conversation.to_client(before + typed("2") + done("COMMIT")) == before
    conversation.end()
    assert reports == [CutCommit(Commit(1, ""), Loss.ANSWER, "COMMIT")]


@pytest.mark.parametrize(
    "forget", [typed("C", b"Ss\0"), typed("P", b"s\0select 1\0\0\0")], ids=["closed", "prepared again"]
)
def test_a_name_that_is_no_commit_any_more_passes(forget: bytes) -> None:
    conversation, _ = conversation_losing(Loss.COMMIT)
    data = PREPARED + forget + typed("B", b"p\0s\0") + EXECUTE + typed("S")
    assert conversation.to_server(data) == data


@given(places=PLACES)
def test_of_two_pipelined_commits_the_second_goes_unanswered_alone(places: list[int]) -> None:
    conversation, reports = conversation_losing(Loss.ANSWER, number=2)
    sent = startup(user="u") + query("commit") + query("begin") + query("COMMIT;")
    assert conversation.to_server(sent + query("select 1")) == sent
    answered = READY + done("COMMIT") + done("BEGIN")
    received = [conversation.to_client(chunk) for chunk in split_at(answered + done("ROLLBACK"), places)]
    assert b"".join(received) == answered
    assert conversation.is_to_be_cut
    conversation.end()
    assert reports == [CutCommit(Commit(2, ""), Loss.ANSWER, "ROLLBACK")]
