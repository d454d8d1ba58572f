"""What a command warns of when it starts: settings nobody reads, failpoints, and an address that others can reach."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import structlog
import typer

from wallet.runtime.settings import Settings, unknown_settings

_log = structlog.get_logger("wallet.cli")


@dataclass(frozen=True, slots=True)
class StartWarning:
    """One warning: its event and fields for the log, and its sentence for a person."""

    event: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def warnings_about(settings: Settings, *, host: str | None = None) -> list[StartWarning]:
    """All warnings; `host` is the address that the api listens on, where one is started."""
    return [*unknown_setting_warnings(), *_failpoints(settings), *_reachable(host)]


def print_warnings(warnings: Sequence[StartWarning]) -> None:
    """One line each on stderr."""
    for each in warnings:
        typer.echo(f"wallet: warning: {each.text}", err=True)


def log_warnings(warnings: Sequence[StartWarning]) -> None:
    """One event each, in the log and, unless the process is quiet, on stderr."""
    for each in warnings:
        _log.warning(each.event, hint=each.text, **each.fields)


def unknown_setting_warnings() -> list[StartWarning]:
    """Warnings about the file of settings."""
    return list(_unknown_settings())


def _unknown_settings() -> Iterator[StartWarning]:
    for unknown in unknown_settings():
        meant = f"did you mean {unknown.nearest}?" if unknown.nearest else ".env.example lists all"
        yield StartWarning(
            "unknown_setting",
            f"{unknown.file}, line {unknown.line}: there is no setting {unknown.name}, so it is ignored; {meant}",
            {"file": unknown.file, "line": unknown.line, "setting": unknown.name, "nearest": unknown.nearest},
        )


def _failpoints(settings: Settings) -> Iterator[StartWarning]:
    if settings.wallet_failpoints.strip():
        yield StartWarning(
            "failpoints_set",
            f"WALLET_FAILPOINTS is set ({settings.wallet_failpoints}): this process fails on purpose, for tests only",
            {"failpoints": settings.wallet_failpoints},
        )


def _reachable(host: str | None) -> Iterator[StartWarning]:
    if host is not None and not is_loopback(host):
        yield StartWarning(
            "listens_beyond_loopback",
            f"listening on {host}: anyone who reaches this address can move money, as requests are not authenticated; "
            "keep it behind a proxy that authenticates, or listen on 127.0.0.1",
            {"host": host},
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this address; False too for a name that can't be resolved."""
    try:
        addresses = [info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return False
    return all(ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
