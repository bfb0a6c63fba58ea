"""docs/http.md and the error codes in use, against the table of codes."""

import re
from pathlib import Path

from worker.shim.codes import CODES

ROOT = Path(__file__).parents[2]
IN_USE = re.compile(r'(?:Refusal\.of|RequestError|refused)\(\s*(?:\d+,\s*)?"([A-Z_]+)"')


def test_the_docs_list_every_code_as_it_is() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "http.md").read_text(), re.M)
    assert [(name, int(status), meaning, advice) for name, status, meaning, advice in rows] == [
        (name, code.status, code.meaning, code.advice) for name, code in CODES.items()
    ]


def test_every_code_that_is_raised_is_in_the_table() -> None:
    files = [
        *(ROOT / "worker" / "shim").glob("*.py"),
        *(ROOT / "worker").glob("*.py"),
        *(ROOT / "worker" / "mirror").glob("*.py"),
    ]
    used = {code for file in files for code in IN_USE.findall(file.read_text())}
    assert len(used) > 15
    assert used - {"X"} <= CODES.keys()
