"""The rules of style that a machine can hold; ruff, mypy and import-linter hold the others."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from typing_extensions import TypeIs

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "wallet"
TESTS = ROOT / "tests"

SOURCE_FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

BANNED_SUFFIXES = ("Manager", "Helper", "Helpers", "Util", "Utils", "Base", "Data")
BANNED_MODULES = ("utils", "util", "helpers", "helper", "common", "misc", "manager", "base")

# The rooms where money is; a float there would round it.
EXACT_ROOMS = (SOURCE / "domain", SOURCE / "ledger", SOURCE / "stress")

# What may be a float there: a time-out and the like, in seconds.
DURATION = re.compile(r"(?i)seconds|deadline|delay|elapsed|pause|remaining|timeout")

# Loops that must outlive a bug in one turn: they log it, answer or park what it was about, and go on.
CATCHES_EVERYTHING = {
    "src/wallet/trail/buffer.py",
    "src/wallet/api/edge/asgi.py",
    "src/wallet/integrity/monitor/checking.py",
    "src/wallet/ledger/lane.py",
    "src/wallet/relay/relay.py",
    "src/wallet/worker/handle.py",
    "src/wallet/worker/messages.py",
    "tests/fault/running.py",
}

CHECKS = {"raises", "fail", "eventually", "eventually_blocking", "until"}

# The settings read it once; a parent hands it on to the processes it starts.
KNOWS_THE_ENVIRONMENT = {"src/wallet/runtime/settings.py", "src/wallet/cli/processes/children.py"}

SLEEPS = {"tests/support/waiting.py", "tests/support/reaper.py"}
SQL_STATEMENT = re.compile(r"^\s*(select|insert into|update|delete from|create|alter|drop|truncate)\b", re.IGNORECASE)
SELECT_STAR = re.compile(r"\bselect\s+(\w+\.)?\*", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")

# The locks and scripts name packages, never a place to fetch them from: that is each machine's own setting.
ADDRESS_OF_A_REGISTRY = re.compile(r"(pypi\.|pythonhosted|/simple\b|--(extra-)?index-url|--find-links)")


def python_files(*roots: Path) -> list[Path]:
    return sorted(path for root in roots for path in root.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(syntax_tree(path))


def place(path: Path, node: ast.stmt | ast.expr | ast.arg) -> str:
    return f"{name_of(path)}:{node.lineno}"


ALL_PYTHON = python_files(SOURCE, TESTS)
ALL_SOURCE = python_files(SOURCE)
ALL_TESTS = python_files(TESTS)


def test_the_walk_finds_the_code() -> None:
    assert SOURCE / "__main__.py" in ALL_SOURCE
    assert Path(__file__) in ALL_TESTS


def test_files_are_short() -> None:
    def lines_max(path: Path) -> int:
        return SOURCE_FILE_LINES_MAX if path.is_relative_to(SOURCE) else TEST_FILE_LINES_MAX

    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_PYTHON}
    assert [f"{name_of(path)}: {lines}" for path, lines in lengths.items() if lines > lines_max(path)] == []


def test_functions_fit_a_screen() -> None:
    too_long = [
        f"{place(path, node)} {node.name}: {lines}"
        for path in ALL_PYTHON
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert too_long == []


def test_names_say_what_a_thing_does() -> None:
    classes = [
        f"{place(path, node)} {node.name}"
        for path in ALL_PYTHON
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_SUFFIXES)
    ]
    modules = [name_of(path) for path in ALL_PYTHON if path.stem in BANNED_MODULES]
    assert classes + modules == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name_of(path) for path in ALL_PYTHON if not ast.get_docstring(syntax_tree(path))] == []


def test_no_float_where_money_is() -> None:
    floats = [
        place(path, node)
        for path in python_files(*EXACT_ROOMS)
        for node in nodes(path)
        if converts_to_float(node) or (is_typed_float(node) and not DURATION.search(name_of_typed(node)))
    ]
    assert floats == []


def converts_to_float(node: ast.AST) -> TypeIs[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float"


def is_typed_float(node: ast.AST) -> TypeIs[ast.arg | ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef]:
    match node:
        case ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation):
            pass
        case ast.FunctionDef(returns=annotation) | ast.AsyncFunctionDef(returns=annotation):
            pass
        case _:
            return False
    parts = ast.walk(annotation) if annotation is not None else ()
    return any(isinstance(part, ast.Name) and part.id == "float" for part in parts)


def name_of_typed(node: ast.arg | ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    match node:
        case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.AnnAssign(target=target):
            return ast.unparse(target)


def test_sql_names_its_columns() -> None:
    statements = sorted(SOURCE.rglob("*.sql"))
    assert statements
    assert [name_of(path) for path in statements if SELECT_STAR.search(path.read_text(encoding="utf-8"))] == []


def test_sql_is_never_built_from_strings() -> None:
    built = [
        place(path, node)
        for path in ALL_SOURCE
        for node in nodes(path)
        if isinstance(node, ast.JoinedStr | ast.BinOp) and SQL_STATEMENT.match(first_text(node))
    ]
    assert built == []


def first_text(node: ast.expr) -> str:
    """The literal text that an f-string, a concatenation or a %-format begins with."""
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), _, *_]):
            return text
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add() | ast.Mod()):
            return text
        case ast.BinOp(left=ast.JoinedStr() | ast.BinOp() as left):
            return first_text(left)
        case _:
            return ""


def test_nothing_is_left_for_later() -> None:
    texts = [
        *ALL_PYTHON,
        *SOURCE.rglob("*.sql"),
        ROOT / "wallet",
        ROOT / "test",
        *(ROOT / "scripts").iterdir(),
    ]
    assert [name_of(path) for path in texts if UNFINISHED.search(path.read_text(encoding="utf-8"))] == []


def test_only_process_loops_catch_everything() -> None:
    catching = {
        name_of(path)
        for path in ALL_PYTHON
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not raises_again(node)
    }
    assert catching - CATCHES_EVERYTHING == set()


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    return handler.type is None or bool(names & {"Exception", "BaseException"})


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)


def test_tests_wait_for_conditions_and_never_sleep() -> None:
    sleeping = {
        name_of(path)
        for path in ALL_TESTS
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name)
    }
    assert sleeping - SLEEPS == set()


def test_only_the_fault_laboratory_pauses() -> None:
    """A fault lasts for a time, and a load has a pace; every other test waits for a condition."""
    pausing = {
        name_of(path)
        for path in ALL_TESTS
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pause"
    }
    assert pausing
    assert {name for name in pausing if not name.startswith("tests/fault/")} == set()


def test_only_the_command_line_prints() -> None:
    printing = [
        place(path, node)
        for path in ALL_SOURCE
        if not path.is_relative_to(SOURCE / "cli")
        for node in nodes(path)
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert printing == []


def test_only_the_settings_read_the_environment() -> None:
    reading = {
        name_of(path)
        for path in ALL_SOURCE
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
    }
    assert reading - KNOWS_THE_ENVIRONMENT == set()


def test_no_test_asserts_nothing() -> None:
    """A test asserts, expects an error, or calls something whose name says that it checks."""
    empty = [
        f"{place(path, node)} {node.name}"
        for path in ALL_TESTS
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not any(checks_something(inner) for inner in ast.walk(node))
    ]
    assert empty == []


def checks_something(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in CHECKS or name.startswith(("assert_", "check_", "expect_"))


@pytest.mark.parametrize("script", ["wallet", "test", "scripts/lock", ".ci/run"])
def test_commands_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/")


@pytest.mark.parametrize(
    "script", ["wallet", "test", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").iterdir())]
)
def test_scripts_are_read_by_a_plain_shell(script: str) -> None:
    finished = subprocess.run(["sh", "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-image.lock", "requirements-dev.lock"])
def test_locks_pin_each_package_by_hash_and_name_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pins = re.split(r"^(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert pins
    assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []
    assert "://" not in text
    assert not ADDRESS_OF_A_REGISTRY.search(text)


def pins_of(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_each_lock_holds_the_same_versions_as_the_smaller_one() -> None:
    assert pins_of("requirements-image.lock") < pins_of("requirements.lock") < pins_of("requirements-dev.lock")


def test_the_locks_have_every_dependency_and_the_image_lacks_the_stress_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: Iterable[str]) -> set[str]:
        return {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements}

    always, stress = names(project["dependencies"]), names(project["optional-dependencies"]["stress"])
    assert always | stress <= names(pins_of("requirements.lock"))
    assert always <= names(pins_of("requirements-image.lock"))
    assert stress.isdisjoint(names(pins_of("requirements-image.lock")))


def test_the_locks_leave_out_what_only_unused_code_needs() -> None:
    locked = {re.split("==", pin)[0] for pin in pins_of("requirements.lock")}
    assert locked.isdisjoint({"flask", "jinja2", "pyyaml", "werkzeug"})


def test_nothing_names_the_address_of_a_registry() -> None:
    texts = [
        *ALL_SOURCE,
        ROOT / "wallet",
        ROOT / "test",
        ROOT / "pyproject.toml",
        *(ROOT / "scripts").iterdir(),
    ]
    naming = [name_of(path) for path in texts if ADDRESS_OF_A_REGISTRY.search(path.read_text(encoding="utf-8"))]
    assert naming == []
