"""A proxy between a client and PostgreSQL that can lose a COMMIT before it arrives, or the answer to a COMMIT.

    async with PostgresProxy.to_server_of(database_url) as proxy:
        proxy.cut_after_commit()
        ...
        [cut] = await proxy.commits_cut()
        assert cut.reply == "COMMIT"

A COMMIT is recognized as a simple query that contains nothing else, or as the Execute of a statement prepared from it.
It is not recognized inside a longer text or in an encrypted session. COPY FROM STDIN by the extended protocol would be
miscounted, because the server does not answer one Sync there.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from tests.support.postgres_messages import ENCRYPTION_ANSWER, ENCRYPTION_REQUEST, STARTUP, Framing, Message
from tests.support.proxy import Proxy
from tests.support.proxy_link import Conversation
from tests.support.waiting import WITHIN_SECONDS, eventually

COMMIT: Final = re.compile(rb"\s*(commit|end)(\s+(work|transaction))?\s*(;\s*)*", re.IGNORECASE)

ENDS_A_UNIT: Final = frozenset("QSF")
"""Query, Sync and FunctionCall: the server answers each by one ReadyForQuery after everything before it is done."""


@unique
class Loss(Enum):
    """The message that is lost."""

    COMMIT = "COMMIT is not forwarded: the server sees the connection end and rolls back"
    ANSWER = "COMMIT is forwarded and answered, the answer is dropped"


@dataclass(frozen=True, slots=True)
class Commit:
    """A COMMIT that a client has sent; the COMMITs of a proxy are numbered from 1."""

    number: int
    application_name: str


@dataclass(frozen=True, slots=True)
class CutCommit:
    """A COMMIT that was cut, and the dropped answer: COMMIT, ROLLBACK or ERROR, or None if the server sent none."""

    commit: Commit
    loss: Loss
    reply: str | None


Which = int | Callable[[Commit], bool]
"""The nth COMMIT from now on, once; or each for which the function returns True."""


def with_probability(probability: float, draw: random.Random) -> Callable[[Commit], bool]:
    """Returns a function that picks COMMITs with this probability; the seed decides which."""
    return lambda _commit: draw.random() < probability


class PostgresProxy(Proxy):
    """A proxy to PostgreSQL."""

    def __init__(self, host: str, port: int, *, listen_port: int | None = None) -> None:
        super().__init__(host, port, listen_port=listen_port)
        self.commit_count = 0
        """How many COMMITs were sent, including those that were cut."""
        self.cut_commits: list[CutCommit] = []
        self._rules: list[tuple[Callable[[Commit], bool], Loss]] = []

    def cut_before_commit(self, which: Which = 1) -> None:
        """Cut both sides instead of forwarding these COMMITs: the server rolls back."""
        self.lose(Loss.COMMIT, which)

    def cut_after_commit(self, which: Which = 1) -> None:
        """Forward these COMMITs, wait for the answer, drop it and cut both sides: the client can't know the outcome."""
        self.lose(Loss.ANSWER, which)

    def lose(self, loss: Loss, which: Which = 1) -> None:
        """Lose COMMITs or their answers, by `loss`. If several calls pick the same COMMIT, the first call decides."""
        self._rules.append((self._picking(which), loss))

    def let_commits_pass(self) -> None:
        """Cut no further COMMITs."""
        self._rules.clear()

    async def commits_cut(self, count: int = 1, *, within: float = WITHIN_SECONDS) -> list[CutCommit]:
        """Wait until this many COMMITs have been cut and their sessions have ended. Returns all that were cut."""
        await eventually(lambda: len(self.cut_commits) >= count, within=within)
        return list(self.cut_commits)

    def converse(self) -> Conversation:
        """Returns a PostgresConversation for a new connection."""
        return PostgresConversation(self.decide, self.cut_commits.append)

    def decide(self, application_name: str) -> tuple[Commit, Loss | None]:
        """Count a COMMIT. Returns it, and what of it is to be lost."""
        self.commit_count += 1
        commit = Commit(self.commit_count, application_name)
        return commit, next((loss for picks, loss in self._rules if picks(commit)), None)

    def _picking(self, which: Which) -> Callable[[Commit], bool]:
        if not isinstance(which, int):
            return which
        number = self.commit_count + which
        return lambda commit: commit.number == number


class PostgresConversation(Conversation):
    """Reads both directions of one connection and ends it at the COMMIT that is to be lost."""

    def __init__(
        self, decide: Callable[[str], tuple[Commit, Loss | None]], report: Callable[[CutCommit], None]
    ) -> None:
        self._decide = decide
        self._report = report
        self._from_client = Framing(from_client=True)
        self._from_server = Framing(from_client=False)
        self._application_name = ""
        self._statements = _Statements()
        # The start of the session is unit 0; the answer to a unit is what the server sends between two ReadyForQuery.
        self._units_sent = 1
        self._units_answered = 0
        self._lost: tuple[Commit, Loss] | None = None
        self._lost_unit: int | None = None
        self._reply: str | None = None

    def to_server(self, data: bytes) -> bytes:
        """Forward everything up to a COMMIT that is to be lost, or up to the end of its unit if only its answer is."""
        passing = bytearray()
        for piece in [] if self._says_no_more else self._from_client.split(data):
            if piece.message is not None and not self._may_pass(piece.message):
                self.is_to_be_cut = True
                break
            passing += piece.data
            if self._says_no_more:
                break
        return bytes(passing)

    def to_client(self, data: bytes) -> bytes:
        """Forward everything except the answer to the unit whose COMMIT is lost."""
        passing = bytearray()
        for piece in [] if self.is_to_be_cut else self._from_server.split(data):
            is_lost = self._units_answered == self._lost_unit
            if not is_lost:
                passing += piece.data
            if piece.message is not None:
                self._read_answer(piece.message, is_lost=is_lost)
            if self.is_to_be_cut:
                break
        return bytes(passing)

    def end(self) -> None:
        """Report the COMMIT that was lost; the server's session has ended."""
        if self._lost is not None:
            self._report(CutCommit(*self._lost, self._reply))

    @property
    def _says_no_more(self) -> bool:
        """Returns whether the client is cut off. A COMMIT's unit still passes up to its Sync, which gets the answer."""
        return self.is_to_be_cut or (self._lost_unit is not None and self._units_sent > self._lost_unit)

    def _may_pass(self, message: Message) -> bool:
        if message.kind == STARTUP:
            self._application_name = _application_name(message)
        elif message.kind == ENCRYPTION_REQUEST:
            self._from_server.expect_encryption_answer()
        elif self._lost is None and self._statements.commits(message):
            commit, loss = self._decide(self._application_name)
            if loss is not None:
                self._lost = commit, loss
            if loss is Loss.COMMIT:
                return False
            if loss is Loss.ANSWER:
                self._lost_unit = self._units_sent
        if message.kind in ENDS_A_UNIT:
            self._units_sent += 1
        return True

    def _read_answer(self, message: Message, *, is_lost: bool) -> None:
        if message.kind == ENCRYPTION_ANSWER and message.head != b"N":
            self._from_client.is_opaque = self._from_server.is_opaque = True
        elif message.kind == "Z":
            self._units_answered += 1
            self.is_to_be_cut = is_lost
        elif is_lost and message.kind == "C":
            self._reply = message.head.rstrip(b"\0").decode()
        elif is_lost and message.kind == "E":
            self._reply = "ERROR"


class _Statements:
    """The prepared statements and portals of a session that are a COMMIT."""

    def __init__(self) -> None:
        self._statements: set[bytes] = set()
        self._portals: set[bytes] = set()

    def commits(self, message: Message) -> bool:
        """Process a client's message. Returns whether it makes the server commit."""
        name, _, rest = message.head.partition(b"\0")
        source, _, _ = rest.partition(b"\0")
        match message.kind:
            case "Q":
                return message.is_whole and COMMIT.fullmatch(name) is not None
            case "P":
                _note(self._statements, name, is_commit=message.is_whole and COMMIT.fullmatch(source) is not None)
            case "B":
                _note(self._portals, name, is_commit=source in self._statements)
            case "E":
                return name in self._portals
            case "C":
                closed = self._statements if name.startswith(b"S") else self._portals
                closed.discard(name[1:])
            case _:
                pass
        return False


def _note(names: set[bytes], name: bytes, *, is_commit: bool) -> None:
    if is_commit:
        names.add(name)
    else:
        names.discard(name)


def _application_name(startup: Message) -> str:
    words = startup.head[4:].split(b"\0")
    parameters = dict(zip(words[::2], words[1::2], strict=False))
    return parameters.get(b"application_name", b"").decode(errors="replace")
