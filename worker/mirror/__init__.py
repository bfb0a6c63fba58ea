"""The org, in Postgres."""
