"""The spool: a renewed pair on disk, encrypted and flushed, for the moments between the org's answer and Postgres's commit.

With rotation the former refresh token is spent when the answer arrives: a pair that is lost here is a grant that is lost.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from worker.errors import SettingsError
from worker.log import get_logger
from worker.salesforce.oauth import Grant
from worker.tokens.vault import Vault

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A renewed pair that may not be stored yet: which token was spent for it, and which version it follows."""

    connection_id: int
    spent: str  # fingerprint of the refresh token that was sent
    follows: int  # token_version when it was asked for
    attempt_id: int
    grant: Grant = field(repr=False)


def fingerprint(refresh_token: str | None) -> str:
    """A refresh token's name in logs and tables: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(refresh_token.encode()).hexdigest()[:16] if refresh_token else "none"


class Spool:
    """One file for each attempt to renew, in `folder`; readable by us alone.

    Named by its attempt, so that who drops an old pair can never take a new one with it.
    """

    def __init__(self, folder: Path, vault: Vault) -> None:
        self.folder = folder
        self._vault = vault

    def keep(self, pair: Pair) -> None:
        """Write a pair and flush it to the disk.

        From the write on, our own death loses nothing: a file that was not renamed yet is found too, and one that is not
        whole does not open. Flush and rename are for a machine that loses power.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(pair)
        sealed = self._vault.encrypt(_dump(pair), table="spool", column="pair", row=pair.connection_id)
        partial = path.with_suffix(".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
            file.write(sealed.encode())
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(self.folder)

    def find(self, connection_id: int) -> list[Pair]:
        """The pairs that were kept for a connection and can be read, newest attempt first."""
        found = [pair for path in self._files(connection_id) if (pair := self._open(path, connection_id))]
        return sorted(found, key=lambda pair: pair.attempt_id, reverse=True)

    def drop(self, pair: Pair) -> None:
        """The pair is in Postgres (or of no use): forget it."""
        for path in (self._path(pair), self._path(pair).with_suffix(".partial")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # it does no harm: it is used only while it follows the stored version
                log.warning("spool.not_dropped", connection=pair.connection_id, error=error.strerror)

    def waiting(self) -> list[int]:
        """Connections with a kept pair."""
        return sorted({int(name) for path in self.folder.glob("*.*") if (name := path.name.split(".")[0]).isdigit()})

    def _open(self, path: Path, connection_id: int) -> Pair | None:
        try:
            sealed = path.read_text()
        except OSError:
            return None
        try:
            return _load(self._vault.decrypt(sealed, table="spool", column="pair", row=connection_id))
        except (SettingsError, ValueError, KeyError, TypeError):
            log.warning("spool.unreadable", connection=connection_id)
            return None

    def _files(self, connection_id: int) -> Iterator[Path]:
        for suffix in ("pair", "partial"):
            yield from self.folder.glob(f"{connection_id}.*.{suffix}")

    def _path(self, pair: Pair) -> Path:
        return self.folder / f"{pair.connection_id}.{pair.attempt_id}.pair"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(pair: Pair) -> str:
    return json.dumps(asdict(pair), default=lambda value: value.isoformat())


def _load(text: str) -> Pair:
    values = json.loads(text)
    grant = values.pop("grant")
    times: dict[str, Any] = {name: _time(grant.pop(name)) for name in ("issued_at", "expires_at")}
    return Pair(grant=Grant(**grant, **times), **values)


def _time(value: object) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
