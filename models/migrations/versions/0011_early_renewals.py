"""tokens that are renewed before they end; connections by JWT bearer"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLE = "salesforce_oauth_tokens"
GRANTS = "grant_type IN ('authorization_code', 'refresh_token', 'client_credentials', 'jwt_bearer')"
HAS_KEY = "(grant_type = 'jwt_bearer' AND state <> 'disconnected') <= (jwt_key IS NOT NULL AND username IS NOT NULL)"


def upgrade() -> None:
    """Forward only. Refresh tokens that are there already are used within the next hours, spread, so that none lies idle."""
    op.add_column(TABLE, sa.Column("jwt_key", sa.Text()), schema="public")
    op.add_column(TABLE, sa.Column("renewed_at", sa.DateTime(timezone=True)), schema="public")
    op.add_column(TABLE, sa.Column("renew_at", sa.DateTime(timezone=True)), schema="public")
    op.add_column(TABLE, sa.Column("session_seconds", sa.Float()), schema="public")
    op.drop_constraint(op.f("ck_salesforce_oauth_tokens_grant_type"), TABLE, schema="public")
    op.create_check_constraint(op.f("ck_salesforce_oauth_tokens_grant_type"), TABLE, GRANTS, schema="public")
    op.create_check_constraint(op.f("ck_salesforce_oauth_tokens_jwt_has_key"), TABLE, HAS_KEY, schema="public")
    op.create_index(
        "ix_salesforce_oauth_tokens_renew_at",
        TABLE,
        ["renew_at"],
        schema="public",
        postgresql_where=sa.text("renew_at IS NOT NULL"),
    )
    op.create_index(
        "ix_renewals_open", "renewals", ["started_at"], schema="sfsync", postgresql_where=sa.text("outcome IS NULL")
    )
    op.execute(
        f"UPDATE public.{TABLE} SET renew_at = clock_timestamp() + random() * interval '6 hours'"  # noqa: S608
        " WHERE state = 'active' AND refresh_token IS NOT NULL"
    )
