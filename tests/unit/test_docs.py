"""The documentation names every setting, command and exit code that exists."""

from pathlib import Path

import pytest
from typer.main import get_command

from worker.cli.main import app
from worker.cli.output import Exit
from worker.settings import Settings, variable

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{variable(name)}`" in OPERATIONS


@pytest.mark.parametrize("code", list(Exit))
def test_every_exit_code_is_documented(code: Exit) -> None:
    assert f"| {code.value} | " in OPERATIONS


def test_every_command_is_in_the_readme() -> None:
    commands = getattr(get_command(app), "commands", {})
    assert [name for name in commands if f"`sfsync {name}`" not in README] == []
