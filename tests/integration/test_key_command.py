"""`wallet key`: creates, lists, revokes and rotates; the secret is printed once and written nowhere else."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run_in
from tests.support.database import fetch_rows, fetch_value


class KeyCommand:
    """Runs `wallet key` on one database."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        self._database_url = database_url

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Returns what it printed."""
        code, output, errors = run_in(self.directory, "key", *arguments, DATABASE_URL=self._database_url)
        assert code == exit_code, output + errors
        return output + errors

    def json(self, *arguments: str) -> dict[str, object]:
        """Returns the JSON object that it printed."""
        found = json.loads(self.run(*arguments, "--json"))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def key(tmp_path: Path, database_url: str) -> KeyCommand:
    return KeyCommand(tmp_path, database_url)


async def test_a_key_is_created_shown_once_listed_rotated_and_revoked(key: KeyCommand, database_url: str) -> None:
    assert "There is no key" in key.run("list")
    created = key.json(
        *("create", "--name", "shop", "--scope", "read", "--scope", "deposit", "--prefix", "shop:"),
        *("--rate", "50", "--burst", "100", "--days", "30", "--actor", "ann"),
    )
    text, key_id = str(created["key"]), str(created["id"])
    assert text.startswith(f"wlt_live_{key_id}_")
    rotated = key.json("rotate", key_id, "--actor", "bob")
    listed = key.json("list")["keys"]
    assert isinstance(listed, list)
    first, second = listed
    assert first["name"] == second["name"] == "shop"
    assert first["scopes"] == second["scopes"] == ["deposit", "read"]
    assert (second["prefixes"], second["rate"], second["burst"]) == (["shop:"], 50, 100)
    assert (first["createdBy"], second["createdBy"], second["replaces"]) == ("ann", "bob", key_id)
    assert (second["id"], second["state"], second["lastUsedAt"]) == (rotated["id"], "active", None)
    revoked = key.run("revoke", key_id, "--actor", "eve")
    assert f"{key_id} is revoked" in revoked
    assert "was revoked before" in key.run("revoke", key_id)
    table = key.run("list")
    assert "revoked" in table
    logs = [path.read_text() for path in (key.directory / "logs").iterdir()]
    everything = [table, *logs, str(await fetch_rows(database_url, "select k::text from api_keys k"))]
    assert not any(secret in place for secret in (text, text.rpartition("_")[2]) for place in everything)
    assert "can't be rotated" in key.run("rotate", key_id, exit_code=2)
    assert all(f'"event":"api_key_{what}"' in "".join(logs) for what in ("created", "rotated"))


def test_a_key_for_tests_has_a_successor_for_tests_and_only_one(key: KeyCommand) -> None:
    created = key.json("create", "--name", "x", "--scope", "read", "--test")
    rotated = key.json("rotate", str(created["id"]))
    assert str(rotated["key"]).startswith("wlt_test_")
    assert f"rotate its successor {rotated['id']}" in key.run("rotate", str(created["id"]), exit_code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "nobody"), "There is no API key 'nobody'"),
        (("rotate", "nobody"), "There is no API key 'nobody'"),
        (("create", "--name", "x"), "--scope"),
        (("create", "--name", "x", "--scope", "everything"), "everything"),
        (("create", "--name", " ", "--scope", "read"), "blank"),
        (("create", "--name", "x" * 101, "--scope", "read"), "101 characters"),
        (("create", "--name", "x", "--scope", "read", "--prefix", "a b"), "not the beginning of a wallet id"),
        (("create", "--name", "x", "--scope", "read", "--burst", "5"), "--burst needs --rate"),
        (("create", "--name", "x", "--scope", "read", "--rate", "0"), "at least 0.001"),
        (("create", "--name", "x", "--scope", "read", "--days", "1e300"), "at most 36,500"),
        (("create", "--name", "x", "--scope", "read", "--rate", "5", "--burst", "9999999999"), "at most 1,000,000"),
        (("rotate", "x", "--grace-hours", "1e300"), "at most 876,000"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
async def test_a_wrong_call_says_what_is_wrong_and_creates_nothing(
    key: KeyCommand, database_url: str, arguments: tuple[str, ...], said: str
) -> None:
    assert said in key.run(*arguments, exit_code=2)
    assert await fetch_value(database_url, "select count(*) from api_keys") == 0


async def test_beyond_loopback_an_api_without_a_key_does_not_start_and_names_the_two_remedies(
    tmp_path: Path, database_url: str
) -> None:
    code, _, errors = run_in(tmp_path, "api", "--host", "0.0.0.0", "--port", "0", DATABASE_URL=database_url)
    assert code == 2
    assert "wallet key create" in errors
    assert "AUTH=off" in errors
