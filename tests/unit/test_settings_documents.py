"""`.env.example` and the README's table are what the declarations of the settings give."""

from pathlib import Path

import pytest

from wallet.access.principal import Scope
from wallet.cli.commands.contracts import settings_documents, write_settings_documents
from wallet.runtime.settings import Settings, with_settings_table

ROOT = Path(__file__).parents[2]
CURE = "run ./wallet contracts"


def test_each_document_is_what_the_settings_give() -> None:
    documents = settings_documents(ROOT)
    assert sorted(path.name for path in documents) == [".env.example", "README.md"]
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, CURE


def test_each_setting_has_a_sentence_and_stands_in_each_document() -> None:
    example, readme = settings_documents(ROOT).values()
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert f"\n#{name.upper()}=" in example
        assert f"| `{name.upper()}` |" in readme


def test_a_changed_document_is_written_again_and_other_text_stays(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("old")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme.replace("| `PORT` |", "| `PROT` |"), encoding="utf-8")
    assert len(write_settings_documents(tmp_path)) == 2
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == readme
    assert write_settings_documents(tmp_path) == []
    assert write_settings_documents(tmp_path / "elsewhere") == []


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        with_settings_table("# Another document\n")


def test_the_readme_names_every_scope() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## API keys")[2].partition("\n## ")[0]
    assert all(f"`{scope}`" in section for scope in Scope)
