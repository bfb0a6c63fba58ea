"""what an action asks: what follows a failure, merging, a precondition, parents, a callback; and the log of its attempts"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DROPPED = ("state", "finished", "refusal_has_error")
CHECKS = {
    "source": "source IN ('http', 'cli', 'sql', 'celery', 'trigger')",
    "after_failure": "after_failure IN ('go_on', 'wait')",
    "record_id_whole": "record_id IS NULL OR char_length(record_id) = 18",
    "external_id_used": "external_id_field IS NULL OR operation IN ('create', 'upsert')",
    "fields_are_an_object": "jsonb_typeof(fields) = 'object'",
    "delete_has_no_fields": "operation <> 'delete' OR fields = '{}'",
    "key_length": "char_length(idempotency_key) BETWEEN 1 AND 255",
    "content_hash_whole": "octet_length(content_hash) = 32",
    "mergeable_is_update": "NOT mergeable OR (operation = 'update' AND if_unmodified_since IS NULL)",
    "precondition_has_record": "if_unmodified_since IS NULL OR operation IN ('update', 'delete')",
    "counts": "attempts >= 0 AND ticket >= 0",
    "state": "state IN ('waiting', 'ready', 'sending', 'in_doubt', 'delivered', 'rejected', 'conflict', 'held', 'cancelled')",
    "finished": "(state IN ('delivered', 'rejected', 'conflict', 'cancelled')) = (finished_at IS NOT NULL)",
    "delivered_has_record": "state <> 'delivered' OR (record_id IS NOT NULL AND error IS NULL)",
    "made_when_delivered": "operation IN ('update', 'delete') OR record_id IS NULL OR state = 'delivered'",
    "remembered_when_delivered": "remembered_at IS NULL OR state = 'delivered'",
    "refusal_has_error": "state NOT IN ('rejected', 'conflict', 'held') OR error IS NOT NULL",
    "error_says_why": "(error ->> 'code') IS NOT NULL AND (error ->> 'message') IS NOT NULL OR error IS NULL",
    "conflict_had_precondition": "state <> 'conflict' OR if_unmodified_since IS NOT NULL",
    "doubt_has_end": "state <> 'in_doubt' OR doubt_until IS NOT NULL",
    "claim_whole": "num_nulls(claim_token, claim_owner, claim_until) IN (0, 3)",
    "claimed_while_sent": "CASE state WHEN 'sending' THEN claim_token IS NOT NULL"
    " WHEN 'in_doubt' THEN true ELSE claim_token IS NULL END",
}


def upgrade() -> None:
    """Forward only. Rows that older code left are brought into the rules before these are made."""
    op.add_column(
        "actions", sa.Column("after_failure", sa.Text(), server_default="go_on", nullable=False), schema="sfsync"
    )
    op.add_column(
        "actions",
        sa.Column("mergeable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="sfsync",
    )
    op.add_column(
        "actions", sa.Column("if_unmodified_since", sa.DateTime(timezone=True), nullable=True), schema="sfsync"
    )
    op.add_column("actions", sa.Column("callback_url", sa.Text(), nullable=True), schema="sfsync")
    op.execute("UPDATE sfsync.actions SET fields = '{}' WHERE operation = 'delete' AND fields <> '{}'")
    for name in DROPPED:
        op.drop_constraint(op.f(f"ck_actions_{name}"), "actions", schema="sfsync")
    for name, rule in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_actions_{name}"), "actions", rule, schema="sfsync")
    op.create_table(
        "action_parents",
        sa.Column("action_id", sa.Uuid(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["action_id"], ["sfsync.actions.id"], name=op.f("fk_action_parents_action_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["sfsync.actions.id"], name=op.f("fk_action_parents_parent_id")),
        sa.PrimaryKeyConstraint("action_id", "field", name=op.f("pk_action_parents")),
        schema="sfsync",
    )
    op.create_index(op.f("ix_action_parents_parent_id"), "action_parents", ["parent_id"], unique=False, schema="sfsync")
    op.create_table(
        "action_attempts",
        sa.Column("action_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("way", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["action_id"], ["sfsync.actions.id"], name=op.f("fk_action_attempts_action_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("action_id", "id", name=op.f("pk_action_attempts")),
        schema="sfsync",
    )
