"""What happened, for those who follow it live: changes of the states of actions and runs. Kept for a day."""

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Created, Key, one_of

EVENT_KINDS = ("action", "run")


class Event(Base):
    """One change of a state, written by triggers of sfsync.actions and sfsync.runs in the transaction that made it.

    Ids follow the order of the statements, not of the commits: a reader that has seen 7 and 9 looks again for 8.
    Of actions only states that a caller waits for are told, and the end of those by a person; of runs their beginning and
    end, and of refreshes by the timetable only those that brought something or failed.
    """

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(one_of("kind", *EVENT_KINDS), name="kind"),
        Index("ix_events_connection_id_id", "connection_id", "id"),
    )

    id: Mapped[Key]
    at: Mapped[Created]
    connection_id: Mapped[int] = mapped_column(ForeignKey("public.salesforce_oauth_tokens.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
