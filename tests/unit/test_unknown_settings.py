"""Names in `.env` that no setting has are reported with their line and the setting that was meant."""

from pathlib import Path

import pytest

from wallet.runtime.settings import UnknownSetting, unknown_settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_that_begins_like_a_setting_or_resembles_one_is_reported(directory: Path) -> None:
    (directory / ".env").write_text(
        "# comment\n\nDB_HOST=localhost\nDB_PASSWORD=secret\n\nexport RABBIT_MQ_URL=amqp://x\nLOG_LEVLE=debug\n"
        "log_dir=logs\nFRAUD_NOTHING_ALIKE=1\nPORTS=3000\nPROT=3000\nPATH=/bin\nHOME=/\nPOSTGRES_USER=wallet\nCOMPOSE_PROJECT_NAME=x\n"
    )
    assert [(each.file, each.line, each.name) for each in unknown_settings()] == [
        (".env", 4, "DB_PASSWORD"),
        (".env", 6, "RABBIT_MQ_URL"),
        (".env", 7, "LOG_LEVLE"),
        (".env", 9, "FRAUD_NOTHING_ALIKE"),
        (".env", 10, "PORTS"),
        (".env", 11, "PROT"),
    ]
    assert [each.nearest for each in unknown_settings()] == [
        "DB_PASS",
        "RABBITMQ_URL",
        "LOG_LEVEL",
        None,
        "PORT",
        "PORT",
    ]


def test_every_setting_is_known_and_a_missing_or_unreadable_file_is_no_trouble(directory: Path) -> None:
    assert unknown_settings() == list[UnknownSetting]()
    (directory / ".env").write_text((Path(__file__).parents[2] / ".env.example").read_text().replace("\n#", "\n"))
    assert unknown_settings() == []
    (directory / ".env").write_bytes(b"DB_HOSTS=\xff\n")
    assert unknown_settings() == []
