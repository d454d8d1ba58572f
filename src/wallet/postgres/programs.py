"""Finds PostgreSQL's programs (psql, pg_dump, …), and detects and ends a running server by its postmaster.

The programs get the address of their database from environment variables, so that their arguments show no password.
"""

import importlib.util
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psutil

from wallet.postgres.unprivileged import PACKAGE

_VARIABLES: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
"""The environment variable that libpq reads for each part of an address."""
STOP_SECONDS_MAX = 60.0  # A fast shutdown writes one checkpoint.
KILL_SECONDS_MAX = 10.0
POLL_SECONDS = 0.02


def find_program(name: str) -> Path | None:
    """Returns the path of a program: beside the embedded server, else on the PATH; None if it is not found."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = shutil.which(name, path=":".join(f"{place}/pginstall/bin" for place in places)) or shutil.which(name)
    return None if found is None else Path(found)


def environment_of(dsn: str) -> dict[str, str]:
    """Returns the variables for an address. Of several hosts, the program connects to the one that takes writes."""
    parts = urlsplit(dsn)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [urlsplit(f"//{place}") for place in places.split(",")]
    said = {
        "host": ",".join(host.hostname or "" for host in hosts),
        "port": ",".join(str(host.port or "") for host in hosts),
        "user": unquote(user),
        "password": unquote(password),
        "dbname": unquote(parts.path.removeprefix("/")),
        "target_session_attrs": "read-write" if len(hosts) > 1 else "",
    }
    said |= {"dbname" if name == "database" else name: value for name, value in parse_qsl(parts.query)}
    return {variable: said[name] for name, variable in _VARIABLES.items() if said.get(name)}


def is_postmaster(pid: int, cluster: Path) -> bool:
    """Returns whether this process runs the cluster in that directory, and is not another process with a reused id."""
    with suppress(psutil.Error):
        return pid > 0 and str(cluster) in psutil.Process(pid).cmdline()
    return False


def end_postmaster(pid: int) -> None:
    """End a postmaster: by a fast shutdown, or by stronger signals if it does not end. All are safe for the data."""
    harder = (
        (signal.SIGINT, STOP_SECONDS_MAX),
        (signal.SIGQUIT, KILL_SECONDS_MAX),
        (signal.SIGKILL, KILL_SECONDS_MAX),
    )
    for signal_number, seconds_max in harder:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(signal_number)
            deadline = time.monotonic() + seconds_max
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            else:
                return
