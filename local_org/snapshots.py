"""Snapshots of the store's file, and the file that the store works on now.

A snapshot is taken at the moment of the call and written in the background; beside it lies a spare copy, so that
a restore is a rename. Both are quick however large the org is; a second restore waits for the next spare.
"""

import shutil
import sqlite3
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

FIRST_FILE = "org.sqlite3"
_POINTER = "org.current"


class Snapshots:
    """The snapshots of one data folder. Calls come from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._data = folder
        self._folder = folder / "snapshots"
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._pending: dict[str, Future[None]] = {}

    def current(self) -> Path:
        """The file that the store works on: another after each restore."""
        pointer = self._data / _POINTER
        return self._data / (pointer.read_text() if pointer.exists() else FIRST_FILE)

    def keep(self, name: str, source: sqlite3.Connection) -> None:
        """Keep what `source` sees now; it is closed when that is written."""
        self._folder.mkdir(exist_ok=True)
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM _settings").fetchone()  # from here on it sees this state
        self._pending[name] = self._copier.submit(self._write, name, source)

    def _write(self, name: str, source: sqlite3.Connection) -> None:
        draft = self._folder / f"{name}.draft"
        draft.unlink(missing_ok=True)
        with closing(source), closing(sqlite3.connect(draft)) as kept:
            source.backup(kept)
        draft.replace(self._file(name))
        self._spare(name).unlink(missing_ok=True)
        self._make_spare(name)

    def _make_spare(self, name: str) -> None:
        draft = self._folder / f"{name}.spare-draft"
        shutil.copyfile(self._file(name), draft)
        draft.replace(self._spare(name))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.sqlite3"

    def _spare(self, name: str) -> Path:
        return self._folder / f"{name}.spare"

    def bring_back(self, name: str) -> None:
        """Make a copy of a snapshot the current file. Raises ValueError if there is none of this name."""
        pending = self._pending.pop(name, None)
        if pending is not None:
            pending.result()
        if not self._file(name).exists():
            raise ValueError(f"there is no snapshot {name}")
        if not self._spare(name).exists():
            self._make_spare(name)
        fresh = self._data / f"org-{uuid.uuid4().hex[:12]}.sqlite3"
        self._spare(name).rename(fresh)
        draft = self._data / f"{_POINTER}.draft"
        draft.write_text(fresh.name)
        draft.replace(self._data / _POINTER)
        self._pending[name] = self._copier.submit(self._make_spare, name)

    def forget(self, file: Path) -> None:
        """Remove a file that is no longer the current one."""
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Wait until what was kept is written."""
        self._copier.shutdown(wait=True)
