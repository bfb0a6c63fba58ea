"""What all our own tables share: schema, constraint names, aware-UTC timestamps.

Our tables live in the Postgres schema `sfsync`, so that they never meet a user's own; only the token table keeps the
place where callers look for it (see connection.py).
"""

from datetime import datetime
from typing import Annotated

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, func
from sqlalchemy.orm import DeclarativeBase, mapped_column

SCHEMA = "sfsync"

Key = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
Instant = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Created = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())]


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        },
    )


def one_of(column: str, *values: str) -> str:
    """SQL for a CHECK: `column` is one of `values` (which are ours, never input)."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
