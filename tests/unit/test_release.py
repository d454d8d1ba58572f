"""The version, the licence and the changelog agree."""

import re
import tomllib

from tests.support.deployment import ROOT
from wallet.version import version


def test_the_version_is_defined_in_one_place() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in metadata["project"]
    assert metadata["project"]["dynamic"] == ["version"]
    source = metadata["tool"]["hatch"]["version"]
    text = (ROOT / source["path"]).read_text(encoding="utf-8")
    assert re.findall(source["pattern"], text, flags=re.MULTILINE) == [version()]


def test_the_changelog_names_this_version_and_its_date_below_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})", heading) for heading in headings[1:]]
    versions = [match[1] for match in released if match]
    assert len(versions) == len(released)
    assert versions[0] == version()
    assert versions == sorted(versions, key=lambda each: [int(part) for part in each.split(".")], reverse=True)


def test_the_licence_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    assert text.startswith("Apache License Version 2.0, January 2004")
    assert "(LICENSE)" in (ROOT / "README.md").read_text(encoding="utf-8")
