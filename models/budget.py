"""The budget of an org: what was spent on what, and how many calls are under way at once."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Instant


class Usage(Base):
    """Calls and Bulk work of one hour, by what they were for. `organization_id` is the org's, or `connection:ID` until it is known."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_hour", "hour"),)

    organization_id: Mapped[str] = mapped_column(Text, primary_key=True)
    hour: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), primary_key=True
    )  # its beginning, by Postgres's clock
    object: Mapped[str] = mapped_column(Text, primary_key=True)  # API name; empty: concerns none
    lane: Mapped[str] = mapped_column(Text, primary_key=True)
    cause: Mapped[str] = mapped_column(Text, primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    query_jobs: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    ingest_jobs: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    result_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    ingest_rows: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class OrgSlots(Base):
    """How many calls of one org a process may have under way at once: leased, so that a killed process's share comes back."""

    __tablename__ = "org_slots"

    organization_id: Mapped[str] = mapped_column(Text, primary_key=True)
    process: Mapped[str] = mapped_column(Text, primary_key=True)
    slots: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[Instant]
