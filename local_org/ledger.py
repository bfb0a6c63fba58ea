"""Every call that the org answered, one JSON line each, in the order of their ends."""

import json
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FILE_NAME = "ledger.jsonl"


@dataclass(slots=True)
class Entry:
    """One call. `delivered` is false if the answer did not go out whole; `milliseconds` is the time it took."""

    at_ms: int
    method: str
    path: str
    query: str
    user: str | None = None
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    delivered: bool = False
    milliseconds: float = 0.0
    fault: str | None = None


_NAMES = tuple(item.name for item in fields(Entry))


class Ledger:
    """Appends entries to a file; reads them back by number, from 0."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._lock = threading.Lock()
        self._file = self._path.open("a", encoding="utf-8", buffering=1)

    def add(self, entry: Entry) -> None:
        line = json.dumps({name: getattr(entry, name) for name in _NAMES}) + "\n"
        with self._lock:
            self._file.write(line)

    def entries(self, since: int = 0) -> list[dict[str, Any]]:
        """The entries from number `since` on, each with its number as `seq`."""
        with self._path.open(encoding="utf-8") as lines:
            return [{"seq": seq, **json.loads(line)} for seq, line in enumerate(lines) if seq >= since]

    def clear(self) -> None:
        with self._lock:
            self._file.truncate(0)

    def close(self) -> None:
        with self._lock:
            self._file.close()
