"""Processes kept running by a parent, and the port it holds for them."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests.support.waiting import eventually
from wallet.api.edge.server import CannotListen, PortInUse, reserved_port
from wallet.cli.processes import children
from wallet.cli.processes.children import CannotStart, Child, running

FOR_EVER = "import signal; signal.pause()"


def child_of(program: str, *, stop_seconds_max: float = 10.0) -> Child:
    child = Child([], name="child", environment={"OF_ITS_OWN": "1"}, stop_seconds_max=stop_seconds_max)
    child._command = [sys.executable, "-I", "-c", program]
    return child


def ours(program: str) -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if program in each.cmdline()]


def counted_ends(child: Child) -> list[str | None]:
    """Grows by how it ended, whenever it ends by itself."""
    ends: list[str | None] = []
    child._on_end = lambda: ends.append(child.ending)
    return ends


async def test_a_child_that_ends_is_started_again_with_back_off(capsys: pytest.CaptureFixture[str]) -> None:
    child = child_of("import os; os._exit(7 + int(os.environ['OF_ITS_OWN']))")
    child.mark_started()
    ends = counted_ends(child)
    async with running(child):
        await eventually(lambda: len(ends) == 2)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"child ended by itself (exit code 8); starting it again in {delay} s" for delay in ("0.5", "1")]


async def test_a_child_that_ends_before_it_had_started_is_not_tried_again() -> None:
    child = child_of("import os; os._exit(3)")
    ends = counted_ends(child)
    async with running(child):
        await eventually(lambda: ends)
        with pytest.raises(CannotStart, match=r"child could not start: it ended by itself \(exit code 3\)"):
            child.expect_not_ended()
        assert ours("import os; os._exit(3)") == []


async def test_a_child_that_cannot_be_made_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    child = child_of(FOR_EVER)
    child.mark_started()
    child._command[0] = "/nowhere/python"
    ends = counted_ends(child)
    async with running(child):
        await eventually(lambda: ends)
        child._command[0] = sys.executable
        await eventually(lambda: ours(FOR_EVER))
    assert "No such file" in capsys.readouterr().err
    assert ours(FOR_EVER) == []


async def test_the_backoff_begins_again_after_a_child_was_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "WELL_AFTER_SECONDS", 0.0)
    child = child_of("")
    child.mark_started()
    ends = counted_ends(child)
    async with running(child):
        await eventually(lambda: len(ends) == 2)
    assert capsys.readouterr().err.count("again in 0.5 s") == 2


async def test_a_stop_while_a_child_is_made_leaves_none() -> None:
    async with running(child_of(FOR_EVER), child_of(FOR_EVER)):
        pass
    assert ours(FOR_EVER) == []


async def test_a_child_that_will_not_stop_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    child = child_of(program, stop_seconds_max=0.1)
    async with running(child):
        (process,) = await eventually(lambda: ours(program))
        await eventually(lambda: ignores_sigterm(process.pid))
    assert not process.is_running()
    assert "did not stop within 0.1 s" in capsys.readouterr().err


def ignores_sigterm(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:  # noqa: PTH123 - not a file of ours
        (mask,) = [line.split()[1] for line in status if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent was killed")
def test_a_child_whose_parent_died_before_it_could_ask_does_not_run() -> None:
    nobody = 2**30
    command = [sys.executable, "-I", "-c", "print('ran')"]
    for parent, ran in ((nobody, ""), (os.getpid(), "ran\n")):
        child = subprocess.run(
            command,
            preexec_fn=lambda parent=parent: children._stop_with_parent(parent),  # type: ignore[misc]
            capture_output=True,
            text=True,
            check=False,
        )
        assert (child.returncode, child.stdout) == (0 if ran else 1, ran)


def listen_sharing(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def bind_as_a_server_does(port: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


@pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only")
def test_a_reserved_port_is_for_those_who_share_it_and_for_nobody_else() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        for _ in range(2):
            with pytest.raises(PortInUse, match=str(port)), reserved_port("127.0.0.1", port):
                pass
            with pytest.raises(OSError, match="in use"):
                bind_as_a_server_does(port)
            with listen_sharing(port), listen_sharing(port):
                socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    bind_as_a_server_does(port)
    # Connections of before that the kernel still remembers are no hindrance.
    with reserved_port("127.0.0.1", port) as again:
        assert again == port


def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"), reserved_port("192.0.2.1", 0):
        pass
