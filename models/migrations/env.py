"""Alembic's entry point. The connection comes from `models.migrations.upgrade`, inside its transaction."""

from typing import Any

from alembic import context

import models.access
import models.action
import models.budget
import models.callback
import models.connection
import models.event
import models.mirror
import models.trigger  # noqa: F401 - imported so that their tables are known
from models.base import SCHEMA, Base


def ours(name: str | None, kind: str, parents: Any) -> bool:
    """Compare only our own schema and the token table, never a user's tables."""
    if kind == "schema":
        return name in (SCHEMA, None, "public")
    if kind == "table" and parents.get("schema_name") in (None, "public"):
        return name == "salesforce_oauth_tokens"
    return name != "alembic_version"


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    include_name=ours,
    transaction_per_migration=False,
)
context.run_migrations()
