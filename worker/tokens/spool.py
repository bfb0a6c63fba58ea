"""The spool: a renewed pair on disk, encrypted and flushed, for the moments between the org's answer and Postgres's commit.

With rotation the former refresh token is spent when the answer arrives: a pair that is lost here is a grant that is lost.
"""

import hashlib
import json
import os
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
    """One file per connection in `folder`; readable by us alone."""

    def __init__(self, folder: Path, vault: Vault) -> None:
        self.folder = folder
        self._vault = vault

    def keep(self, pair: Pair) -> None:
        """Write a pair and flush it to the disk, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(pair.connection_id)
        sealed = self._vault.encrypt(_dump(pair), table="spool", column="pair", row=pair.connection_id)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(self.folder)

    def find(self, connection_id: int) -> Pair | None:
        """The pair that was kept for a connection; None when there is none that can be read."""
        try:
            sealed = self._path(connection_id).read_text()
        except OSError:
            return None
        try:
            return _load(self._vault.decrypt(sealed, table="spool", column="pair", row=connection_id))
        except (SettingsError, ValueError, KeyError, TypeError):
            log.warning("spool.unreadable", connection=connection_id)
            return None

    def drop(self, connection_id: int) -> None:
        """The pair is in Postgres (or of no use): forget it."""
        try:
            self._path(connection_id).unlink(missing_ok=True)
        except OSError as error:  # it does no harm: it is used only while it follows the stored version
            log.warning("spool.not_dropped", connection=connection_id, error=error.strerror)

    def waiting(self) -> list[int]:
        """Connections with a kept pair."""
        return sorted(int(path.stem) for path in self.folder.glob("*.pair") if path.stem.isdigit())

    def _path(self, connection_id: int) -> Path:
        return self.folder / f"{connection_id}.pair"


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
