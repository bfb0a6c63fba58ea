"""Where a comparison takes place. Apart from `bench.measure`, which measured processes import and whose memory counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.org import Org


@dataclass
class Place:
    """Servers, environment and files of one comparison."""

    org: Org
    url: str
    env: dict[str, str]
    folder: Path
    rows: int

    def sql(self, statement: str) -> Any:
        """First value of one statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
