"""`sfsync` in this process, as its console script runs it: arguments and standard input in; exit code and output out."""

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from worker.cli import output
from worker.cli.main import run


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, parsed."""
        return json.loads(self.out)


class Cli:
    """Runs commands under an environment of its own."""

    def __init__(
        self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], environment: Mapping[str, str]
    ) -> None:
        self._patch = patch
        self._capture = capture
        for name, value in environment.items():
            patch.setenv(name, value)

    def __call__(self, *arguments: object, stdin: str | bytes = "", columns: int = 120) -> Done:
        """Run one command to its end, on a terminal of so many columns."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        self._capture.readouterr()
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["sfsync", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
            patch.setattr(output.console, "_width", columns)
            code: Any = 0
            try:
                run()
            except SystemExit as end:
                code = end.code or 0
        written = self._capture.readouterr()
        return Done(int(code), written.out, written.err)
