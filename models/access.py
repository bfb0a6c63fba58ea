"""Who may come in: API keys of the HTTP shim."""

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key

SCOPES = ("read", "write", "trigger", "admin")


class ApiKey(Base):
    """One key: only a hash of its secret is kept. `user_ids` None: may act for every user."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("scopes <@ ARRAY['read','write','trigger','admin']::text[]", name="scopes"),
        CheckConstraint("cardinality(scopes) > 0", name="has_scope"),
    )

    id: Mapped[Key]
    prefix: Mapped[str] = mapped_column(Text, unique=True)  # the public half, shown in lists
    secret_hash: Mapped[str] = mapped_column(
        Text
    )  # SHA-256 hex of the whole key: it is 32 random bytes, no salt needed
    name: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    user_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
