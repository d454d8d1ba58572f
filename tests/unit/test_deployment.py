"""Dockerfile and compose.yaml agree with the program, with each other and with the README; no engine runs here."""

import json
import re
import tomllib
from typing import Any

import pytest
import typer

from tests.support.deployment import (
    ROOT,
    compose,
    dockerfile,
    files_sent,
    image_environment,
    image_instructions,
    our_services,
)
from wallet.api.edge.server import STOP_SECONDS_MAX as API_STOP_SECONDS_MAX
from wallet.cli.main import app
from wallet.cli.processes.children import STOP_SECONDS_MAX
from wallet.runtime.settings import Settings

REFERENCE_PORTS = {3000, 5432, 5672, 15672}
OURS = our_services()
EACH_OF_OURS = pytest.mark.parametrize("name", OURS)
EACH_SERVICE = pytest.mark.parametrize("name", compose()["services"])


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def deploy_section() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.split(r"^## ", readme.split("\n## Deploy\n")[1], flags=re.MULTILINE)[0]


def test_every_process_of_ours_and_nothing_else_runs_our_image() -> None:
    assert OURS.keys() == {"migrate", "api", "relay", "worker"}
    assert compose()["services"].keys() - OURS.keys() == {"postgres", "rabbitmq"}


@EACH_OF_OURS
def test_a_command_is_one_that_the_program_takes(name: str) -> None:
    command, *arguments = OURS[name]["command"]
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    with typer.Context(group) as context:
        assert group.commands[command].make_context(command, arguments, parent=context).params is not None


@EACH_OF_OURS
def test_the_environment_of_a_container_is_settings_and_they_name_database_and_broker(name: str) -> None:
    environment = OURS[name]["environment"]
    assert {variable.lower() for variable in environment} <= Settings.model_fields.keys()
    settings = Settings.model_validate({variable.lower(): value for variable, value in environment.items()})
    database, broker = service("postgres")["environment"], service("rabbitmq")
    account = broker["environment"]
    assert settings.dsn == (
        f"postgresql://{database['POSTGRES_USER']}:{database['POSTGRES_PASSWORD']}@postgres:5432/"
        f"{database['POSTGRES_DB']}"
    )
    assert settings.amqp_url == (
        f"amqp://{account['RABBITMQ_DEFAULT_USER']}:{account['RABBITMQ_DEFAULT_PASS']}@{broker['hostname']}:5672"
    )


def test_the_account_of_the_broker_is_the_one_that_the_settings_choose() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for theirs, ours in (("DEFAULT_USER", "USER"), ("DEFAULT_PASS", "PASSWORD")):
        assert f"RABBITMQ_{theirs}: ${{RABBITMQ_{ours}:-guest}}" in text
        assert f"RABBITMQ_{ours}: ${{RABBITMQ_{ours}:-guest}}" in text


def test_every_port_is_published_on_this_machine_only() -> None:
    published = [port for each in compose()["services"].values() for port in each.get("ports", ())]
    assert len(published) == len(REFERENCE_PORTS)
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_ports_are_those_of_the_reference_system_and_the_readme_names_each() -> None:
    published = [port for each in compose()["services"].values() for port in each.get("ports", ())]
    pairs = {tuple(map(int, port.split(":")[-2:])) for port in published}
    assert pairs == {(port, port) for port in REFERENCE_PORTS}
    assert {int(port) for port in re.findall(r"localhost:(\d+)", deploy_section())} == REFERENCE_PORTS


def test_the_api_listens_where_its_port_is_published_and_its_health_is_asked() -> None:
    api = OURS["api"]
    port = Settings.model_validate({"port": api["environment"]["PORT"]}).port
    assert api["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "0.0.0.0" in api["command"]
    assert f"http://127.0.0.1:{port}/readyz" in api["healthcheck"]["test"][-1]
    assert image_instructions("EXPOSE") == [str(port)]


@EACH_SERVICE
def test_a_service_waits_only_for_what_can_become_so(name: str) -> None:
    for other, wanted in service(name).get("depends_on", {}).items():
        is_healthy, is_completed = (
            wanted["condition"] == f"service_{word}" for word in ("healthy", "completed_successfully")
        )
        assert not is_healthy or "healthcheck" in service(other)
        assert is_completed == (service(other)["restart"] == "no")


@pytest.mark.parametrize("name", ["api", "relay", "worker"])
def test_nothing_of_ours_runs_before_the_migrations(name: str) -> None:
    assert OURS[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert OURS["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


@EACH_OF_OURS
def test_a_process_gets_the_time_to_stop_that_it_may_need(name: str) -> None:
    assert int(OURS[name]["stop_grace_period"].removesuffix("s")) > max(STOP_SECONDS_MAX, API_STOP_SECONDS_MAX)


@EACH_SERVICE
def test_what_must_be_kept_is_on_a_named_volume_and_what_ends_is_started_again(name: str) -> None:
    volumes = [volume.split(":")[0] for volume in service(name)["volumes"]]
    assert volumes
    assert set(volumes) <= compose()["volumes"].keys()
    assert service(name)["restart"] == ("no" if name == "migrate" else "unless-stopped")


@EACH_OF_OURS
def test_logs_go_where_the_volume_is(name: str) -> None:
    mounted = OURS[name]["volumes"][0].split(":")[1]
    assert OURS[name]["environment"]["LOG_DIR"] == image_environment()["LOG_DIR"] == mounted
    assert any(f"--owner=wallet --group=wallet {mounted}" in run for run in image_instructions("RUN"))


def test_the_image_runs_as_nobody_special() -> None:
    assert image_instructions("USER") == ["10001:10001"]
    assert any("--uid 10001 " in run for run in image_instructions("RUN"))
    assert json.loads(image_instructions("ENTRYPOINT")[0]) == ["python", "-m", "wallet"]
    assert image_environment()["PYTHONSAFEPATH"] == "1"


def test_the_image_has_a_python_the_project_supports_and_exactly_the_locked_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stages = [instruction.arguments.split()[0] for instruction in dockerfile() if instruction.name == "FROM"]
    assert set(stages) == {f"python:{project['requires-python'].removeprefix('>=')}-slim"}
    (install,) = (each.arguments for each in dockerfile() if each.name == "RUN" and "pip install" in each.arguments)
    assert "--require-hashes" in install
    assert "--no-deps" in install
    assert "--requirement /requirements-image.lock" in install


def test_the_builder_gets_what_the_image_copies_and_no_data_or_secret() -> None:
    copies = [each.arguments.split()[0] for each in dockerfile() if each.name == "COPY"]
    for source in copies:
        assert source.startswith("--from=") or list(files_sent(source))
    sent = [str(path) for source in ("src", "wallet", ".env.example", "README.md") for path in files_sent(source)]
    assert all(path.startswith("src/") and "__pycache__" not in path for path in sent)


@pytest.mark.parametrize("workflow", sorted(path.name for path in (ROOT / ".github" / "workflows").iterdir()))
def test_workflows_name_each_action_by_its_commit(workflow: str) -> None:
    text = (ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8")
    actions = re.findall(r"uses: (.*)", text)
    assert actions
    assert [action for action in actions if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[0-9.]+", action)] == []


def test_an_image_is_pinned_by_digest_or_its_file_says_how_to_pin_it() -> None:
    bases = {each.arguments.split()[0] for each in dockerfile() if each.name == "FROM"}
    others = {service["image"] for service in compose()["services"].values() if "build" not in service}
    for name, images in (("Dockerfile", bases), ("compose.yaml", others)):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all("@sha256:" in image for image in images) or "docker buildx imagetools inspect" in text
