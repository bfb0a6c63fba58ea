"""The vault: tokens are AES-256-GCM ciphertext, `v1|key id|nonce|ciphertext`, bound to the place where they are kept.

The associated data names table, column and row: a value copied to another place does not open. The key id says which of the keys
in ENCRYPTION_KEY made it, so that keys can be rotated: the first encrypts, all decrypt.
"""

import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.base import Base
from models.callback import CallbackSecret
from models.connection import Connection, OAuthState
from worker.db import Database
from worker.errors import SettingsError

FORM = "v1"
NONCE_BYTES = 12
KEY_BYTES = 32
ROTATE_ROWS = 100  # in one transaction


class Vault:
    """Encrypts with the first key, decrypts with whichever made the value."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.key_id = key_id(keys[0])

    def __repr__(self) -> str:
        return f"<Vault of {len(self._ciphers)} keys>"

    def encrypt(self, text: str, *, table: str, column: str, row: int | str, nonce: bytes | None = None) -> str:
        """`text` as ciphertext for that place."""
        nonce = nonce or os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, text.encode(), _place(table, column, row))
        return "|".join((FORM, self.key_id, _b64(nonce), _b64(sealed)))

    def decrypt(self, value: str, *, table: str, column: str, row: int | str) -> str:
        """The text of a ciphertext from that place; SettingsError when its key is missing or it does not belong there."""
        form, key, nonce, sealed = _parts(value, table, column)
        cipher = self._ciphers.get(key)
        if form != FORM or cipher is None:
            raise SettingsError(
                f"ENCRYPTION_KEY: {table}.{column} was encrypted with key {key}, which is not among the keys"
            )
        try:
            return cipher.decrypt(nonce, sealed, _place(table, column, row)).decode()
        except InvalidTag:
            raise SettingsError(f"{table}.{column}: this value was changed or belongs to another row") from None

    def is_current(self, value: str) -> bool:
        """Whether a ciphertext was made with the first key."""
        return value.startswith(f"{FORM}|{self.key_id}|")


def key_id(key: bytes) -> str:
    """A key's name: 8 hex digits that tell nothing about it."""
    return hashlib.sha256(b"sfsync key id" + key).hexdigest()[:8]


def generate_key() -> str:
    """A new key as ENCRYPTION_KEY takes it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def _place(table: str, column: str, row: int | str) -> bytes:
    return f"{table}|{column}|{row}".encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_VALUE = re.compile(r"(v\d+)\|([0-9a-f]+)\|([\w-]+)\|([\w-]+)", re.ASCII)


def _parts(value: str, table: str, column: str) -> tuple[str, str, bytes, bytes]:
    found = _VALUE.fullmatch(value)
    if found is None:
        raise SettingsError(f"{table}.{column}: this is no encrypted value")
    form, key, nonce, sealed = found.groups()
    return form, key, _unb64(nonce), _unb64(sealed)


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class Encrypted:
    """One encrypted column: where it is, and what names its row in the associated data."""

    model: type[Base]
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None]
    row: InstrumentedAttribute[int] | InstrumentedAttribute[str]

    @property
    def place(self) -> tuple[str, str]:
        """Table and column."""
        return self.model.__tablename__, self.column.key


ENCRYPTED = (
    Encrypted(Connection, Connection.access_token, Connection.id),
    Encrypted(Connection, Connection.refresh_token, Connection.id),
    Encrypted(Connection, Connection.jwt_key, Connection.id),
    Encrypted(OAuthState, OAuthState.code_verifier, OAuthState.state_hash),
    Encrypted(CallbackSecret, CallbackSecret.secret, CallbackSecret.id),
)


def outdated(database: Database, vault: Vault) -> int:
    """How many values are not encrypted with the first key."""
    with database.transaction() as session:
        return sum(
            session.scalar(select(func.count()).select_from(one.model).where(_old(vault, one))) or 0
            for one in ENCRYPTED
        )


def kept_by_key(session: Session) -> Counter[str]:
    """How many stored values each key has encrypted, by the key's name."""
    found: Counter[str] = Counter()
    for one in ENCRYPTED:
        key = func.split_part(one.column, "|", 2)
        query = select(key, func.count()).select_from(one.model).where(one.column.is_not(None)).group_by(key)
        found.update({str(name): int(count) for name, count in session.execute(query)})
    return found


def rotate(database: Database, vault: Vault, progress: Callable[[int], None] = lambda _: None) -> int:
    """Encrypt with the first key what another key encrypted; `progress` is told of each batch. How many values changed.

    It may be stopped anywhere and begun again: what is done is found done. Each batch is a transaction that locks its rows, so that
    a renewal in between is neither lost nor overwritten.
    """
    changed = 0
    for one in ENCRYPTED:
        for batch in _rotate_column(database, vault, one):
            progress(batch)
            changed += batch
    return changed


def _rotate_column(database: Database, vault: Vault, one: Encrypted) -> Iterator[int]:
    table, column = one.place
    while True:
        with database.transaction() as session:
            found = select(one.model).where(_old(vault, one)).order_by(one.row).limit(ROTATE_ROWS)
            rows = session.scalars(found.with_for_update(key_share=True)).all()
            for row in rows:
                name = getattr(row, one.row.key)
                text = vault.decrypt(getattr(row, column), table=table, column=column, row=name)
                setattr(row, column, vault.encrypt(text, table=table, column=column, row=name))
        if not rows:
            return
        yield len(rows)


def _old(vault: Vault, one: Encrypted) -> ColumnElement[bool]:
    return one.column.is_not(None) & ~or_(one.column.like(f"{FORM}|{vault.key_id}|%"))
