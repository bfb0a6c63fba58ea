"""A small client of the control path, for tests and demos: `OrgControl("http://localhost:8080").change_rows("Contact", count=5)`."""

from typing import Any, cast

import requests

BASE = "/__org__"


class OrgControl:
    """One local org's control path. Every method raises RuntimeError with the org's words when it refuses."""

    def __init__(self, base_url: str, ca_file: str | None = None) -> None:
        self._base = base_url.rstrip("/") + BASE
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True

    def _call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self._session.request(method, f"{self._base}/{path}", json=body, params=query, timeout=600)
        if not answer.ok:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def _rows(self, verb: str, name: str, **values: Any) -> list[str]:
        given = {key: value for key, value in values.items() if value is not None}
        return cast("list[str]", self._call("POST", f"rows/{verb}", {"object": name, **given})["ids"])

    def status(self) -> dict[str, Any]:
        """Counts of living records, clock, settings."""
        return cast("dict[str, Any]", self._call("GET", "status"))

    def change_rows(
        self,
        name: str,
        *,
        count: int = 1,
        seed: int = 0,
        ids: list[str] | None = None,
        fields: dict[str, Any] | None = None,
    ) -> list[str]:
        """Change records of an object; the ids of those changed."""
        return self._rows("change", name, count=count, seed=seed, ids=ids, fields=fields)

    def delete_rows(self, name: str, *, count: int = 1, seed: int = 0, ids: list[str] | None = None) -> list[str]:
        """Delete records into the recycle bin; their ids."""
        return self._rows("delete", name, count=count, seed=seed, ids=ids)

    def undelete_rows(self, name: str, *, count: int = 1, seed: int = 0, ids: list[str] | None = None) -> list[str]:
        """Take records out of the recycle bin; their ids."""
        return self._rows("undelete", name, count=count, seed=seed, ids=ids)

    def purge_rows(self, name: str, *, count: int = 1, seed: int = 0, ids: list[str] | None = None) -> list[str]:
        """Remove records for good; their ids."""
        return self._rows("purge", name, count=count, seed=seed, ids=ids)

    def create_rows(self, name: str, *, count: int = 1, records: list[dict[str, Any]] | None = None) -> list[str]:
        """Create records, stamped now; their ids."""
        return self._rows("create", name, count=count, records=records)

    def export(self, folder: str) -> dict[str, int]:
        """Write the org as a Data Export folder; rows by object."""
        return cast("dict[str, int]", self._call("POST", "export", {"folder": folder}))

    def ledger(self, since: int = 0) -> list[dict[str, Any]]:
        """Every call the org answered, from number `since` on."""
        return cast("list[dict[str, Any]]", self._call("GET", "ledger", since=since))

    def clear_ledger(self) -> None:
        """Forget all calls."""
        self._call("DELETE", "ledger")

    def set_clock(self, now_ms: int, *, frozen: bool = False) -> None:
        """Set the org's clock, epoch milliseconds."""
        self._call("POST", "clock", {"now_ms": now_ms, "frozen": frozen})

    def advance_clock(self, seconds: float) -> None:
        """Move the org's clock."""
        self._call("POST", "clock", {"advance_seconds": seconds})

    def expire_tokens(self) -> None:
        """End every session; refresh tokens stay."""
        self._call("POST", "tokens/expire-all")

    def revoke_tokens(self) -> None:
        """End every grant: all must log in again."""
        self._call("POST", "tokens/revoke")

    def add_fault(self, *, match: dict[str, Any], action: dict[str, Any]) -> None:
        """Spoil calls: see faults.Fault for the words of `match` and `action`."""
        self._call("POST", "faults", {"match": match, "action": action})

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force and how often they were used."""
        return cast("list[dict[str, Any]]", self._call("GET", "faults"))

    def clear_faults(self) -> None:
        """Forget all rules."""
        self._call("DELETE", "faults")

    def add_bulk_fault(self, kind: str, **words: Any) -> None:
        """Spoil Bulk jobs or pages: fail, fail_halfway, hang, drop_rows, wrong_count, early_end; see bulk_faults.BulkFault."""
        self._call("POST", "bulk-faults", {"kind": kind, **words})

    def clear_bulk_faults(self) -> None:
        """Forget these rules; jobs that hang go on."""
        self._call("DELETE", "bulk-faults")

    def add_object(self, name: str, key_prefix: str, fields: list[dict[str, Any]], **flags: Any) -> None:
        """Add an object with fields in the catalogue's words; flags such as `bulk=False`, `system_fields=False`."""
        self._call("POST", "objects", {"name": name, "key_prefix": key_prefix, "fields": fields, **flags})

    def add_field(self, object_name: str, field: str, **words: Any) -> None:
        """Add or replace a field: `add_field("Contact", "Score__c", type="double", precision=18, scale=2)`."""
        self._call("POST", f"objects/{object_name}/fields", {"field": field, **words})

    def rename_object(self, object_name: str, to: str) -> None:
        """Give an object another API name."""
        self._call("POST", f"objects/{object_name}/rename", {"to": to})

    def remove_field(self, object_name: str, field: str) -> None:
        """Take a field out of an object."""
        self._call("DELETE", f"objects/{object_name}/fields/{field}")

    def change_settings(self, **settings: Any) -> dict[str, Any]:
        """Change settings of the org; all of them afterwards."""
        return cast("dict[str, Any]", self._call("POST", "settings", settings))

    def merge_rows(self, name: str, winner: str, losers: list[str]) -> None:
        """Merge one or two records into another."""
        self._call("POST", "rows/merge", {"object": name, "winner": winner, "losers": losers})

    def recalculate(self, object_name: str) -> None:
        """Work out an object's roll-up fields again, without stamping the records."""
        self._call("POST", "rollups/recalculate", {"object": object_name})

    def hold_rows(self, ids: list[str], seconds: float) -> None:
        """Lock records, as somebody's long transaction would; 0 lets them go."""
        self._call("POST", "rows/hold", {"ids": ids, "seconds": seconds})

    def late_commits(self, seconds: float, times: int = 1) -> None:
        """Let the next writes become visible some seconds after their stamp."""
        self._call("POST", "late-commits", {"seconds": seconds, "times": times})

    def set_rules(
        self,
        *,
        validation: list[dict[str, Any]] | None = None,
        duplicate: list[dict[str, Any]] | None = None,
        assignment: list[dict[str, Any]] | None = None,
    ) -> None:
        """Replace the validation, duplicate and assignment rules."""
        rules = {"validation": validation or [], "duplicate": duplicate or [], "assignment": assignment or []}
        self._call("POST", "rules", rules)

    def hide(self, user: str, **what: Any) -> None:
        """Hide `objects`, `fields` or `rows` from a user; `show_rows` shows rows again."""
        self._call("POST", "hide", {"user": user, **what})

    def define(self, definition: dict[str, Any]) -> None:
        """Apply a definition: objects, fields, users, rules, sight, apps, settings, records."""
        self._call("POST", "define", definition)

    def add_user(self, username: str, **fields: Any) -> str:
        """Add a user, found by the user name; the id."""
        return cast("str", self._call("POST", "users", {"Username": username, **fields})["id"])

    def put_client(self, client_id: str, **words: Any) -> None:
        """Add or replace a connected app."""
        self._call("POST", "clients", {"id": client_id, **words})

    def snapshot(self, name: str = "default") -> None:
        """Keep the data as it is."""
        self._call("POST", "snapshot", {"name": name})

    def restore(self, name: str = "default") -> None:
        """Bring back the data of a snapshot."""
        self._call("POST", "restore", {"name": name})

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Every change of a record after number `since`."""
        return cast("list[dict[str, Any]]", self._call("GET", "journal", since=since))

    def set_usage(self, calls: int) -> None:
        """Pretend that so many calls were made in the last 24 hours."""
        self._call("POST", "usage", {"calls": calls})
