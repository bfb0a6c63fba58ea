"""Validation rules, duplicate rules and assignment rules, given as data over the control path and heeded on every save.

Source: Salesforce Help, "Validation Rules", "Duplicate Rules", "Assignment Rules"; REST API Developer Guide, "Duplicate Rule
Header", "Assignment Rule Header".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_org.catalogue import ObjectType
from local_org.errors import ApiError
from local_org.query import translated_for
from local_org.schema import quoted
from local_org.soql.runtime import run
from local_org.words import check_words

if TYPE_CHECKING:
    from local_org.dml import Change
    from local_org.org import Org

MAX_MATCHES = 10


@dataclass(frozen=True, slots=True)
class ValidationRule:
    """A row that fulfils `condition` (a SOQL condition) is refused with `message`, at `field` if there is one."""

    object: str
    condition: str
    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class DuplicateRule:
    """Rows are duplicates if `fields` are equal. An alert (`allow_save`) gives way to allowSave=true."""

    object: str
    name: str
    fields: tuple[str, ...]
    allow_save: bool = True
    message: str = "Use one of these records?"


@dataclass(frozen=True, slots=True)
class AssignmentRule:
    """The active rule of an object: every record that it is applied to becomes `owner`'s."""

    object: str
    owner: str


Rule = ValidationRule | DuplicateRule | AssignmentRule
NONE: dict[str, list[dict[str, Any]]] = {"validation": [], "duplicate": [], "assignment": []}


class CustomRules:
    """The org's own rules, kept with the data."""

    def __init__(self, org: "Org") -> None:
        self._org = org
        self._read()

    def _read(self) -> None:
        kept = NONE | self._org.store.setting("rules", NONE)
        self._validation = [ValidationRule(**rule) for rule in kept["validation"]]
        self._duplicate = [DuplicateRule(**{**rule, "fields": tuple(rule["fields"])}) for rule in kept["duplicate"]]
        self._owners = {rule["object"].lower(): rule["owner"] for rule in kept["assignment"]}
        self._ruled = {rule["object"].lower() for rule in (*kept["validation"], *kept["duplicate"])}

    def replace(
        self,
        validation: list[dict[str, Any]],
        duplicate: list[dict[str, Any]],
        assignment: list[dict[str, Any]],
    ) -> None:
        """Put these rules in place of all. Raises ValueError for words that are unknown or of a wrong type
        and for rules that no save could be checked by, TypeError for words that are missing."""
        given = ((ValidationRule, validation), (DuplicateRule, duplicate), (AssignmentRule, assignment))
        for kind, rules in given:
            for rule in rules:
                check_words(kind, rule, "a rule")
                self._check_rule(kind(**rule))
        kept = {"validation": validation, "duplicate": duplicate, "assignment": assignment}
        self._org.store.keep_setting("rules", kept)
        self._read()

    def _check_rule(self, rule: Rule) -> None:
        """Raises ValueError for a rule that no save could be checked by."""
        item = self._org.store.catalogue.object(rule.object)
        if item is None:
            raise ValueError(f"a rule: there is no object {rule.object}")
        if isinstance(rule, DuplicateRule):
            unknown = [name for name in rule.fields if item.field(name) is None]
            if unknown or not rule.fields:
                raise ValueError(f"the rule {rule.name}: {item.name} has no field {', '.join(unknown)}")
            return
        if isinstance(rule, AssignmentRule):
            if item.field("OwnerId") is None:
                raise ValueError(f"an assignment rule: {item.name} has no owner")
            return
        soql = f"SELECT Id FROM {item.name} WHERE {rule.condition}"
        with self._org.store.read() as conn:
            try:
                translated_for(self._org, self._org.admin_id, conn, soql, all_rows=False)
            except ApiError as error:
                raise ValueError(f"the condition of a rule of {item.name} is no SOQL: {error.message}") from None

    def has(self, item: ObjectType) -> bool:
        """Whether there is a rule for this object."""
        return item.name.lower() in self._ruled

    def owner_of(self, item: ObjectType) -> str | None:
        """Whom the active assignment rule gives a record of this object to; None without one."""
        return self._owners.get(item.name.lower())

    def check(self, change: "Change", item: ObjectType, record_id: str) -> None:
        """Raises ApiError if the row, as it is in the open transaction, breaks a rule."""
        for rule in self._validation:
            if rule.object.lower() == item.name.lower() and self._fulfils(change, item, record_id, rule.condition):
                fields = [rule.field] if rule.field else []
                raise ApiError(400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", rule.message, fields)
        for duplicate in self._duplicate:
            if duplicate.object.lower() == item.name.lower():
                self._check_duplicate(change, item, record_id, duplicate)

    def _fulfils(self, change: "Change", item: ObjectType, record_id: str, condition: str) -> bool:
        soql = f"SELECT Id FROM {item.name} WHERE Id = '{record_id}' AND ({condition})"
        plan = translated_for(self._org, change.user_id, change.conn, soql, all_rows=False)
        return run(change.conn, plan.ids()).fetchone() is not None

    def _check_duplicate(self, change: "Change", item: ObjectType, record_id: str, rule: DuplicateRule) -> None:
        if rule.allow_save and change.allow_duplicates:
            return
        matches = list(_matches(change, item, record_id, rule))
        if matches:
            raise ApiError(
                400, "DUPLICATES_DETECTED", rule.message, extra={"duplicateResut": _result(item, rule, matches)}
            )


def _matches(change: "Change", item: ObjectType, record_id: str, rule: DuplicateRule) -> Iterator[str]:
    alive = 'AND NOT other."IsDeleted"' if item.field("IsDeleted") else ""
    names = [field.name for field in map(item.field, rule.fields) if field is not None]
    same = " AND ".join(f"other.{quoted(name)} = own.{quoted(name)}" for name in names)
    table = quoted(item.name)
    sql = (
        f'SELECT other."Id" FROM {table} own JOIN {table} other ON {same} {alive} AND other."Id" <> own."Id" '
        f'WHERE own."Id" = ? ORDER BY other."Id" LIMIT {MAX_MATCHES}'
    )
    for (found,) in change.conn.execute(sql, (record_id,)):
        yield found


def _result(item: ObjectType, rule: DuplicateRule, matches: list[str]) -> dict[str, Any]:
    """The vendor's description of what was found; its key is really spelled duplicateResut."""
    records = [
        {
            "additionalInformation": [],
            "fieldDiffs": [],
            "matchConfidence": 100.0,
            "record": {"attributes": {"type": item.name}, "Id": found},
        }
        for found in matches
    ]
    match = {
        "entityType": item.name,
        "errors": [],
        "matchEngine": "ExactMatchEngine",
        "matchRecords": records,
        "rule": rule.name,
        "size": len(records),
        "success": True,
    }
    return {
        "allowSave": rule.allow_save,
        "duplicateRule": rule.name,
        "duplicateRuleEntityType": item.name,
        "errorMessage": rule.message,
        "matchResults": [match],
    }
