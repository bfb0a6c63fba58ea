"""The command line as a whole: quick to answer, and whole."""

import subprocess
import sys

import pytest
import typer

from worker.cli.main import COMMANDS, load

HEAVY = ("sqlalchemy", "celery", "requests", "redis", "psycopg", "simple_salesforce", "fastapi")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name: str) -> None:
    assert load(name).name == name


def test_every_command_that_a_module_registers_is_in_the_table() -> None:
    from importlib import import_module

    for module in {module for module, _ in COMMANDS.values()}:
        part = typer.Typer()
        import_module(f"worker.cli.{module}").register(part)
        assert {name for name, (home, _) in COMMANDS.items() if home == module} == set(
            typer.main.get_group(part).commands
        )


def test_help_loads_none_of_the_heavy_libraries() -> None:
    script = f"import sys, worker.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_misspelt_command_is_answered_with_the_nearest() -> None:
    done = subprocess.run([sys.executable, "-m", "worker.cli", "miror"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'mirror'" in done.stderr
