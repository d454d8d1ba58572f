"""Reads Dockerfile and compose.yaml, as far as this is possible without a container engine."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
OUR_IMAGE = "wallet"
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+):-([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the Dockerfile, with its continued lines joined."""

    name: str
    arguments: str


def dockerfile() -> list[Instruction]:
    """Returns the instructions in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in joined if line]


def image_instructions(name: str) -> list[str]:
    """Returns the arguments of one kind of instruction in the last stage, which builds the image itself."""
    whole = dockerfile()
    start = max(number for number, instruction in enumerate(whole) if instruction.name == "FROM")
    return [instruction.arguments for instruction in whole[start:] if instruction.name == name]


def image_environment() -> dict[str, str]:
    """Returns the environment variables of the image."""
    return dict(word.split("=", 1) for arguments in image_instructions("ENV") for word in arguments.split())


def unpack_image(directory: Path) -> None:
    """Copy the files that COPY takes from the checkout to where the image has them, below a directory."""
    for arguments in image_instructions("COPY"):
        source, target = arguments.split()[-2:]
        if arguments.startswith("--from="):
            continue
        for path in files_sent(source):
            destination = directory / target.lstrip("/") / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, destination)


def files_sent(source: str) -> Iterator[PurePosixPath]:
    """Returns the files of a source that .dockerignore does not exclude, relative to the root."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    places = [ROOT / source, *(ROOT / source).rglob("*")]
    paths = (PurePosixPath(place.relative_to(ROOT)) for place in places if place.is_file())
    return (path for path in paths if _is_sent(path, patterns))


def _is_sent(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Returns what the last pattern decides that matches the file or a folder above it."""
    is_sent = True
    for pattern in patterns:
        if any(each.match(pattern.lstrip("!")) for each in (path, *path.parents)):
            is_sent = pattern.startswith("!")
    return is_sent


def compose() -> dict[str, Any]:
    """Returns compose.yaml with its anchors merged and every variable at its default."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    whole: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(r"\2", text))
    return whole


def our_services() -> dict[str, dict[str, Any]]:
    """Returns the services that run our image."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return {name: service for name, service in services.items() if service["image"] == OUR_IMAGE}


def addresses_of(database_url: str, rabbitmq_url: str) -> dict[str, str]:
    """Returns the settings with the addresses of a test's servers, like those that compose.yaml sets."""
    address = urlsplit(database_url)
    return {
        "DB_HOST": address.hostname or "",
        "DB_PORT": str(address.port),
        "DB_USER": address.username or "",
        "DB_PASS": address.password or "",
        "DB_NAME": address.path.removeprefix("/"),
        "RABBITMQ_URL": rabbitmq_url,
    }


class Ports:
    """The ports of our services in a test: the containers share this machine's network."""

    def __init__(self) -> None:
        self._admin_ports = {name: free_port() for name in our_services()}

    def settings(self, service: str) -> dict[str, str]:
        """Returns the settings of a service that differ from compose.yaml, except PORT."""
        return {"ADMIN_PORT": str(self._admin_ports[service])}

    def health_check(self, service: str, port: int) -> list[str]:
        """Returns the command of its health check, Python included, with the ports of this test."""
        kind, *command = our_services()[service]["healthcheck"]["test"]
        assert kind == "CMD"
        here = {"127.0.0.1:3000/": f"127.0.0.1:{port}/", "127.0.0.1:9090/": f"127.0.0.1:{self._admin_ports[service]}/"}
        assert any(address in command[-1] for address in here), command
        for address, other in here.items():
            command[-1] = command[-1].replace(address, other)
        return list(command)
