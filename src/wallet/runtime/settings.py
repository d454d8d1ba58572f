"""The settings: they are read once at start, from the environment or `.env`, and then passed on.

`.env.example` and a table of the README are generated from their declarations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from wallet.domain.money import AMOUNT_MAX

RESEMBLES: Final = 0.75
"""How similar two names must be, by difflib's ratio from 0 to 1, for one to count as a misspelling of the other.

Two swapped letters in a name of four letters have exactly this ratio.
"""
_OF_THE_SHELL: Final = frozenset({"PATH"})
"""Common names that resemble a setting by chance (AUTH)."""
BEGIN: Final = "<!-- The table is written by `./wallet contracts` from src/wallet/runtime/settings.py. -->\n"
END: Final = "<!-- The end of the table. -->\n"
LINE_LENGTH: Final = 118


class InvalidSettings(Exception):
    """A setting is invalid. The message names the setting and the problem."""


def _setting(group: str, description: str, *, example: str | None = None, **limits: Any) -> Any:
    """Declare a setting. `.env.example` and the table of the README are generated from it."""
    examples = None if example is None else [example]
    return Field(description=description, examples=examples, json_schema_extra={"group": group}, **limits)


class Settings(BaseSettings):
    """Every setting with its default. In the environment the names are in upper case, as in `.env.example`."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    database_url: Annotated[
        SecretStr | None,
        _setting(
            "PostgreSQL",
            "Where the books are. The address may name several hosts, `@a:5432,b:5432/`: the one that takes writes is "
            "used. Without it and DB_HOST, `wallet up` starts its own PostgreSQL.",
            example="postgresql://wallet:wallet@localhost:5432/wallet",
        ),
    ] = None
    db_host: Annotated[
        str | None,
        _setting(
            "PostgreSQL", "The server, where DATABASE_URL is not set; the next four apply to it.", example="localhost"
        ),
    ] = None
    db_port: Annotated[int, _setting("PostgreSQL", "The port of DB_HOST.", ge=1, le=65535)] = 5432
    db_user: Annotated[str, _setting("PostgreSQL", "The user for DB_HOST.")] = "wallet"
    db_pass: Annotated[SecretStr, _setting("PostgreSQL", "The password for DB_HOST.")] = SecretStr("wallet")
    db_name: Annotated[
        str, _setting("PostgreSQL", "The database on DB_HOST, or in the PostgreSQL that `wallet up` starts.")
    ] = "wallet"

    rabbitmq_url: Annotated[
        SecretStr | None,
        _setting(
            "RabbitMQ",
            "Where events are published. Without it, workers read them from the journal in PostgreSQL. The relay and "
            "the workers may differ in it for a while.",
            example="amqp://localhost:5672",
        ),
    ] = None
    rabbitmq_user: Annotated[str, _setting("RabbitMQ", "The user, where RABBITMQ_URL names none.", min_length=1)] = (
        "guest"
    )
    rabbitmq_password: Annotated[SecretStr, _setting("RabbitMQ", "The password, where RABBITMQ_URL names none.")] = (
        SecretStr("guest")
    )
    rabbitmq_exchange: Annotated[
        str, _setting("RabbitMQ", "The exchange of the events.", min_length=1, max_length=200)
    ] = "wallet.events"
    rabbitmq_dlx: Annotated[
        str, _setting("RabbitMQ", "The exchange of the dead letters.", min_length=1, max_length=200)
    ] = "wallet.events.dlx"

    auth: Annotated[
        Literal["auto", "required", "off"],
        _setting(
            "HTTP",
            "Who is served. `auto`: who has an API key; until the first one is created, everybody who reaches "
            "loopback. `required`: who has a key. `off`: everybody, for an api behind a proxy that checks.",
        ),
    ] = "auto"
    port: Annotated[int, _setting("HTTP", "The port of the api; 0 takes a free one.", ge=0, le=65535)] = 3000
    enable_swagger: Annotated[bool, _setting("HTTP", "Whether `/docs` and `/api` are served.")] = True
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        NoDecode,
        _setting(
            "HTTP", "Networks of proxies whose X-Forwarded-For is believed, separated by commas.", example="10.0.0.0/8"
        ),
    ] = ()
    request_deadline_seconds: Annotated[
        float, _setting("HTTP", "A command that has not begun after this many seconds is answered 503.", gt=0, le=300)
    ] = 10.0
    clock_difference_max_seconds: Annotated[
        float,
        _setting(
            "HTTP",
            "No command is executed (503) while PostgreSQL's clock differs from the api's by more than this many "
            "seconds.",
            gt=0,
            le=1e9,
        ),
    ] = 60.0
    transfer_mode: Annotated[
        Literal["auto", "stepwise"],
        _setting(
            "HTTP",
            "`auto`: a transfer is one database transaction. `stepwise`: three, for a database that keeps each "
            "transaction on one node.",
        ),
    ] = "auto"

    admin_host: Annotated[str, _setting("Operation", "The address of the listener of ADMIN_PORT.")] = "127.0.0.1"
    admin_port: Annotated[
        int | None,
        _setting(
            "Operation",
            "A second listener of each process, for /healthz, /readyz and /metrics. `wallet up` gives the relay the "
            "next port and the worker the one after it. Off where it is not set.",
            example="9100",
            ge=1,
            le=65535,
        ),
    ] = None
    log_dir: Annotated[Path, _setting("Operation", "Where the log files are, JSON lines with mode 0640.")] = Path(
        "logs"
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _setting("Operation", "The lowest level that is logged.")
    ] = "info"
    log_requests: Annotated[
        bool, _setting("Operation", "Whether each request has a line in `api.log`, at level `info`.")
    ] = True

    fraud_large_withdrawal_threshold: Annotated[
        Decimal, _setting("Fraud rules", "A withdrawal of this amount or more raises an alert.", gt=0, le=AMOUNT_MAX)
    ] = Decimal(10000)
    fraud_rapid_withdrawal_count: Annotated[
        int,
        _setting("Fraud rules", "This many withdrawals within the window, or more, raise an alert.", ge=1, le=1000),
    ] = 3
    fraud_rapid_withdrawal_window_seconds: Annotated[
        int, _setting("Fraud rules", "The length of that window, in seconds.", ge=1, le=86400)
    ] = 60

    wallet_failpoints: Annotated[
        str,
        _setting(
            "Tests", "Where to fail on purpose: name=kill|stop|raise|delay:MS[@N], separated by commas. For tests only."
        ),
    ] = ""

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(part.strip(), strict=False) for part in value.split(",") if part.strip())
        return value

    @field_validator("database_url", "rabbitmq_url", "db_host", "admin_port", mode="before")
    @classmethod
    def _blank_is_absent(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _make_sense_together(self) -> Self:
        _expect_address("DATABASE_URL", self.database_url, ("postgresql://", "postgres://"))
        _expect_address("RABBITMQ_URL", self.rabbitmq_url, ("amqp://", "amqps://"))
        if self.rabbitmq_exchange == self.rabbitmq_dlx:
            raise ValueError("RABBITMQ_EXCHANGE and RABBITMQ_DLX must differ: dead letters would come back as events")
        return self

    @property
    def logs_each_request(self) -> bool:
        """Whether api.log has a line for each request."""
        return self.log_requests and self.log_level in ("debug", "info")

    @property
    def has_database(self) -> bool:
        """Whether a database is configured. Without one, `wallet up` starts its own."""
        return self.database_url is not None or self.db_host is not None

    @property
    def dsn(self) -> str:
        """The PostgreSQL address. Never log it, because it contains the password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.db_host is None:
            raise InvalidSettings("No database is named: set DATABASE_URL or DB_HOST (or run `wallet up`).")
        user, password = quote(self.db_user, safe=""), quote(self.db_pass.get_secret_value(), safe="")
        return f"postgresql://{user}:{password}@{self.db_host}:{self.db_port}/{quote(self.db_name, safe='')}"

    @property
    def amqp_url(self) -> str | None:
        """The RabbitMQ address, or None if workers read the journal. Never log it, because it contains the password."""
        if self.rabbitmq_url is None:
            return None
        address = urlsplit(self.rabbitmq_url.get_secret_value())
        account, _, host = address.netloc.rpartition("@")
        user, _, password = account.partition(":")
        user = user or quote(self.rabbitmq_user, safe="")
        password = password or quote(self.rabbitmq_password.get_secret_value(), safe="")
        return address._replace(netloc=f"{user}:{password}@{host}").geturl()


def load_settings() -> Settings:
    """Read the settings. Raises InvalidSettings, which names each invalid setting as in the environment."""
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings("; ".join(map(_sentence, error.errors()))) from None


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """A name in the settings file that is not a setting, and the setting that was probably meant."""

    file: str
    line: int
    name: str
    nearest: str | None


def unknown_settings() -> list[UnknownSetting]:
    """Returns unknown names in `.env` that begin like a setting or resemble one. Values are not returned."""
    file = str(Settings.model_config["env_file"])
    known = [name.upper() for name in Settings.model_fields]
    beginnings = tuple({f"{name.partition('_')[0]}_" for name in known})
    found = []
    try:
        with Path(file).open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError):
        return []
    for binding in bindings:
        name = (binding.key or "").upper()
        if not name or name in known or name in _OF_THE_SHELL:
            continue
        begun = [each for each in known if "_" in each and name.startswith(each)]
        nearest = begun or get_close_matches(name, known, n=1, cutoff=RESEMBLES)
        if nearest or name.startswith(beginnings):
            # The text of a binding includes the blank lines and comments before it.
            before = binding.original.string[: binding.original.string.index(binding.key or "")]
            line = binding.original.line + before.count("\n")
            found.append(UnknownSetting(file, line, binding.key or "", nearest[0] if nearest else None))
    return found


def _sentence(problem: ErrorDetails) -> str:
    """Returns the text about one invalid setting, without its value, which may contain a password."""
    message = problem["msg"].removeprefix("Value error, ")
    return f"{str(problem['loc'][0]).upper()}: {message}" if problem["loc"] else message


def _expect_address(name: str, url: SecretStr | None, schemes: tuple[str, ...]) -> None:
    if url is None:
        return
    shape = f"{schemes[0]}user:password@host:port/name, with special characters %-encoded"
    text = url.get_secret_value()
    if not text.startswith(schemes):
        raise ValueError(f"{name} must be an address like {shape}")
    try:
        # PostgreSQL's address may name several hosts, because after a failover another one takes writes.
        hosts = urlsplit(text).netloc.rpartition("@")[2]
        for host in hosts.split(",") if name == "DATABASE_URL" else [hosts]:
            _ = urlsplit(f"//{host}").port
    except ValueError:
        # Not chained, because the parser's message quotes the invalid text, which may be part of the password.
        raise ValueError(f"{name} can't be read; it must be an address like {shape}") from None


def env_example() -> str:
    """Returns the text of `.env.example`: each setting, commented out, with its default or an example."""
    lines = [
        "# Every setting with its default, or with an example where it has none. Copy to .env and change what you need."
    ]
    for group, fields in _groups():
        lines += ["", f"## {group}"]
        for name, field in fields:
            lines += [f"# {line}" for line in wrap(field.description or "", LINE_LENGTH)]
            lines.append(f"#{name.upper()}={_default_of(field) or ''.join(field.examples or ())}")
    return "\n".join(lines) + "\n"


def with_settings_table(document: str) -> str:
    """Returns the document with the settings table between its markers. Raises ValueError if one is missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The document has no place for the table of the settings: {BEGIN.strip()} … {END.strip()}")
    rows = [
        f"| `{name.upper()}` | {f'`{default}`' if (default := _default_of(field)) else ''} | {field.description} |"
        for _, fields in _groups()
        for name, field in fields
    ]
    return "".join(
        (before, begin, "\n", "\n".join(("| setting | default | |", "|---|---|---|", *rows)), "\n\n", end, after)
    )


def settings_of_group(group: str) -> list[str]:
    """Returns the names of a group's settings, in order. Raises KeyError for an unknown group."""
    return [name for name, _ in dict(_groups())[group]]


def _groups() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    for group, fields in groupby(Settings.model_fields.items(), key=lambda each: _group_of(each[1])):
        yield group, list(fields)


def _group_of(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict), "each setting is declared by _setting"
    return str(field.json_schema_extra["group"])


def _default_of(field: FieldInfo) -> str:
    """Returns the default as it is written in the environment, or an empty text if there is none."""
    default: Any = field.default
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case SecretStr():
            return default.get_secret_value()
        case _:
            return str(default)
