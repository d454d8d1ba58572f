"""A streaming standby of a test's PostgreSQL: it is created by pg_basebackup and promoted by the test."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.database import fetch_value
from tests.support.postgres import PostgresServer, run_apart
from tests.support.reaper import Reaper
from tests.support.waiting import eventually_blocking
from wallet.postgres.programs import environment_of
from wallet.postgres.unprivileged import Runner

STANDBY = "standby"
"""Its cluster_name, so that a primary can wait for it by this name."""

COPY_SECONDS_MAX = 60.0
SENDER = "select pid from pg_stat_replication where application_name = 'standby' and state = 'streaming'"
HAS_ALL = """
select exists (
    select from pg_stat_replication where application_name = 'standby' and replay_lsn >= pg_current_wal_lsn()
)
"""


class Standby(PostgresServer):
    """A server that replicates another one, on a different port."""

    def __init__(self, reaper: Reaper, primary: PostgresServer) -> None:
        super().__init__(reaper, {"cluster_name": STANDBY})
        self._primary = primary

    def start(self) -> None:
        """Starts it, the first time from a new copy of the primary, and waits until it has caught up."""
        if not (self.directory / "pgdata").exists():
            self._copy_primary()
        shutil.copy2(self._primary.directory / "password", self.directory)
        super().start()
        eventually_blocking(self.has_all)

    def has_all(self) -> bool:
        """Returns whether it has replayed everything that the primary has written."""
        return bool(self._ask_primary(HAS_ALL))

    @contextmanager
    def is_cut_off(self) -> Iterator[None]:
        """Suspends the replication to it. If the primary is killed meanwhile, what was not sent is lost."""
        sender = self._ask_primary(SENDER)
        assert isinstance(sender, int), "the standby does not stream"
        os.kill(sender, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                # A stopped process would outlive its postmaster, and then continue to send.
                os.kill(sender, signal.SIGKILL)

    def promote(self) -> None:
        """Promotes it to a primary, and waits until it accepts writes."""
        assert run_apart(fetch_value(self.url("postgres"), "select pg_promote()"))

    def be_waited_for(self) -> None:
        """From now on, the primary answers a commit only after this standby has it on its disk."""
        run_apart(self._primary.execute(f"alter system set synchronous_standby_names = '{STANDBY}'"))
        self._ask_primary("select pg_reload_conf()")
        is_sync = "select exists (select from pg_stat_replication where sync_state = 'sync')"
        eventually_blocking(lambda: self._ask_primary(is_sync))

    def _ask_primary(self, query: str) -> object:
        return run_apart(fetch_value(self._primary.url("postgres"), query))

    def _copy_primary(self) -> None:
        runner = Runner()
        binaries = runner.binaries(self._primary.directory)
        assert binaries is not None
        cluster = self.directory / "pgdata"
        cluster.mkdir(mode=0o700)
        runner.own(cluster)
        copier = runner.process()
        copier["env"] = environment_of(self._primary.url("postgres"))
        command = [str(binaries / "pg_basebackup"), f"--pgdata={cluster}", "--write-recovery-conf", "--checkpoint=fast"]
        subprocess.run(command, **copier, check=True, timeout=COPY_SECONDS_MAX)
