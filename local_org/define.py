"""An org's shape as data: objects, fields, users, rules and sight, from a JSON file or over the control path.

Objects and fields are written in the catalogue's words or in those of a describe answer, so that what
`sobjects/NAME/describe` says of another org can be given as it is. Every part may be left out; applying the same
definition again changes nothing. See the README, "An org of your own", for an example.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

from local_org import dml, rollups, users
from local_org.catalogue import COMPOUND_TYPES, FIELD_TYPES, STRINGS, Field, ObjectType
from local_org.formula import formula_sql
from local_org.ids import ALPHABET, to_18
from local_org.objects.build import build, is_deleted, make, owner, record_id, system_fields, text
from local_org.org import Org
from local_org.tokens import Client
from local_org.words import API_NAME, check_words

PARTS = frozenset({"describes", "objects", "fields", "users", "rules", "hide", "clients", "settings", "records"})

_OBJECT_FLAGS = {item.name for item in fields_of(ObjectType) if item.type in ("bool", bool)}
_OWN_WORDS = frozenset({"name", "key_prefix", "label", "label_plural", "fields", "system_fields", "describe"})
_FIELD_WORDS = {item.name for item in fields_of(Field)}
MAX_LENGTH = 131_072
# What describe calls otherwise; every other word is ours in camel case.
_DESCRIBE_WORDS = {"compoundFieldName": "compound_name", "calculatedFormula": None, "defaultValue": "default"}
_NEW_USER = {"Alias": "user", "TimeZoneSidKey": "GMT", "LocaleSidKey": "en_US", "EmailEncodingKey": "UTF-8",
             "LanguageLocaleKey": "en_US"}  # fmt: skip

Words = Mapping[str, Any]


def apply(org: Org, definition: Words, *, folder: Path | None = None) -> None:
    """Make the org what the definition says. Raises ValueError (TypeError) for words that are unknown.

    `describes` may name files, relative to `folder`.
    """
    unknown = sorted(set(definition) - PARTS)
    if unknown:
        raise ValueError(f"unknown parts: {', '.join(unknown)}; a definition has {', '.join(sorted(PARTS))}")
    described = [_loaded(entry, folder) for entry in definition.get("describes", ())]
    for answer in described:
        add_described(org, answer)
    for words in definition.get("objects", ()):
        add_object(org, words)
    for object_name, described_fields in definition.get("fields", {}).items():
        add_fields(org, object_name, described_fields)
    for answer in described:
        _relate(org, answer)
    for words in definition.get("users", ()):
        add_user(org, words)
    rules = definition.get("rules", {})
    if rules:
        org.rules.replace(rules.get("validation", []), rules.get("duplicate", []), rules.get("assignment", []))
    for words in definition.get("clients", ()):
        put_client(org, words)
    org.change_settings(dict(definition.get("settings", {})))
    _add_records(org, definition.get("records", {}))
    for words in definition.get("hide", ()):
        hide(org, words)


def apply_file(org: Org, file: Path) -> None:
    """Apply a definition file. Raises ValueError with the file's name."""
    try:
        definition = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(definition, dict):
            raise ValueError("it is not a JSON object")
        apply(org, definition, folder=file.parent)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file}: {error}") from error


def _loaded(described: Any, folder: Path | None) -> Words:
    if isinstance(described, str):
        described = json.loads(((folder or Path()) / described).read_text(encoding="utf-8"))
    if not isinstance(described, dict) or "fields" not in described:
        raise ValueError("an entry of describes is a describe answer or the name of a file with one")
    return described


# -- objects and fields


def existing(org: Org, name: str) -> ObjectType:
    """Raises ValueError for an object that the org does not have."""
    item = org.store.catalogue.object(name)
    if item is None:
        raise ValueError(f"there is no object {name}")
    return item


def add_object(org: Org, words: Words) -> str:
    """Add an object, or more fields to one that is there; its name.

    Words: `name`, `key_prefix` (else the next free one), `label`, `label_plural`, `fields`, `system_fields` (false: Id
    alone; a list: Id and these) and the catalogue's flags: `bulk`, `replicateable`, `undeletable`, `mergeable`, ….
    """
    name = _api_name(words["name"])
    unknown = sorted(set(words) - _OWN_WORDS - _OBJECT_FLAGS)
    if unknown:
        raise ValueError(f"{name}: unknown words {', '.join(unknown)}")
    made = [field_of(field) for field in words.get("fields", ())]
    known = org.store.catalogue.object(name)
    if known is not None:
        _keep(org, known.with_fields(made))
        return known.name
    flags = {"custom": name.endswith("__c"), **{key: bool(words[key]) for key in _OBJECT_FLAGS & set(words)}}
    prefix = str(words.get("key_prefix") or free_prefix(org))
    taken = org.store.catalogue.of_id(prefix)
    if len(prefix) != 3 or taken is not None:
        raise ValueError(
            f"{name}: the key prefix {prefix} is {'taken by ' + taken.name if taken else 'not 3 characters'}"
        )
    label = str(words.get("label", name.removesuffix("__c").replace("_", " ")))
    plural = str(words.get("label_plural", f"{label}s"))
    system = _system_fields(name, words.get("system_fields", True), flags)
    _keep(org, build(name, prefix, plural, [record_id(label), *system, *made], label=label, **flags))
    return name


def _api_name(name: Any) -> str:
    """Raises ValueError for what cannot name an object or a field."""
    if not isinstance(name, str) or not API_NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is no API name: letters, digits and underscores, a letter first")
    return name


def _system_fields(name: str, wanted: Any, flags: Words) -> list[Field]:
    """The usual fields of an object of one's own: owner, recycle bin, stamps, and a name where a custom object has one."""
    whole = [owner(), is_deleted(), *system_fields()]
    if not flags.get("undeletable", True):
        whole.remove(whole[1])
    if name.endswith("__c"):
        whole.append(text("Name", "Name", 80, name_field=True, id_lookup=True))
    if isinstance(wanted, list):
        return [field for field in whole if field.name in wanted]
    return whole if wanted else []


def free_prefix(org: Org) -> str:
    """The first key prefix a00 … azz that no object has."""
    taken = {item.key_prefix for item in org.store.catalogue.objects()}
    prefixes = (f"a{first}{second}" for first in ALPHABET for second in ALPHABET)
    return next(prefix for prefix in prefixes if prefix not in taken)


def add_described(org: Org, described: Words) -> str:
    """Add or change an object as a describe answer of another org shows it; its name."""
    name = _api_name(described["name"])
    snake = {key: _snake(key) for key in described}
    flags = {ours: bool(described[key]) for key, ours in snake.items() if ours in _OBJECT_FLAGS}
    made = [field_of(field) for field in described["fields"]]
    known = org.store.catalogue.object(name)
    prefix = known.key_prefix if known else str(described.get("keyPrefix") or free_prefix(org))
    item = build(
        name, prefix, str(described.get("labelPlural", name)), made, label=described.get("label", name), **flags
    )
    kept = [] if known is None else [field for key, field in known.fields.items() if key not in item.fields]
    _keep(org, item.with_fields(kept))
    return name


def _relate(org: Org, described: Words) -> None:
    """Name the relationships from an object to its children, as its describe answer does."""
    for child in described.get("childRelationships") or ():
        item = org.store.catalogue.object(str(child["childSObject"]))
        field = None if item is None else item.field(str(child["field"]))
        if item is None or field is None:
            continue
        named = replace(
            field,
            child_relationship=child["relationshipName"],
            cascade_delete=bool(child["cascadeDelete"]),
            restricted_delete=bool(child["restrictedDelete"]),
        )
        _keep(org, item.with_fields([named]))


def _snake(word: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in word)


def field_of(words: Words) -> Field:
    """A field from the catalogue's words or from an entry of `fields` of a describe answer. Raises ValueError."""
    if "soapType" in words:
        words = _from_describe(words)
    check_words(Field, words, f"field {words.get('name', '')}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in words.items()}
    name = _api_name(given.pop("name", None))
    if given.get("type", "string") not in FIELD_TYPES:
        raise ValueError(f"field {name}: unknown type {given['type']}; there are {', '.join(sorted(FIELD_TYPES))}")
    for key in ("length", "precision", "scale", "digits"):
        if not 0 <= words.get(key, 0) <= MAX_LENGTH:
            raise ValueError(f"field {name}: {key} must be from 0 to {MAX_LENGTH}")
    full: dict[str, Any] = {"custom": name.endswith("__c"), "label": name, "type": "string", **given}
    if "formula" in given or "rollup" in given:
        full |= {"calculated": True, "createable": False, "updateable": False}
    if given.get("auto_number"):
        full |= {"createable": False, "updateable": False, "defaulted_on_create": True}
    if "length" not in given and full["type"] in STRINGS:
        full["length"] = 32_768 if full["type"] == "textarea" else 255
    if full["type"] == "reference" and "relationship_name" not in given:
        full["relationship_name"] = f"{name[:-1]}r" if name.endswith("__c") else name.removesuffix("Id")
    return make(full.pop("type"), name, full.pop("label"), **full)


def _from_describe(entry: Words) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for key, value in entry.items():
        ours = _DESCRIBE_WORDS.get(key, _snake(key))
        if ours in _FIELD_WORDS and ours != "auto_number":
            words[ours] = value
    words["picklist"] = [str(choice["value"]) for choice in entry.get("picklistValues") or () if choice["active"]]
    if entry.get("autoNumber"):
        words["auto_number"] = "{000000}"
    if entry["type"] in COMPOUND_TYPES or not entry.get("referenceTo"):
        words.pop("relationship_name", None)
    return words


def add_fields(org: Org, object_name: str, entries: Iterable[Words]) -> list[str]:
    """Add fields to an object, or replace them; their names. `formula` makes one calculated, `rollup` is
    [child object, its reference, COUNT|SUM|MIN|MAX, its field]."""
    item = existing(org, object_name)
    made = [field_of(words) for words in entries]
    changed = item.with_fields(made)
    for field in made:
        if field.formula is not None:
            formula_sql(org.store.catalogue.changed(changed, 0), item.name, field, "t")
    _keep(org, changed)
    if any(field.rollup for field in made):
        recalculate(org, item.name)
    return [field.name for field in made]


def _keep(org: Org, item: ObjectType) -> None:
    if org.store.catalogue.object(item.name) != item:
        org.store.add_objects([item])


def recalculate(org: Org, object_name: str) -> None:
    """Work out the roll-up fields of an object again, without stamping the records."""
    with org.store.write() as conn, org.changing(conn, org.admin_id) as change:
        rollups.recalculate(change, existing(org, object_name))


# -- people, apps, records


def add_user(org: Org, words: Words) -> str:
    """Add a user, found by `Username`; the id. What a user must have and is not given gets a plain value."""
    known = users.by_name(org, str(words["Username"]))
    if known is not None:
        return known.id
    with org.store.read() as conn:
        profile = conn.execute('SELECT "Id" FROM "Profile" LIMIT 1').fetchone()
    name = str(words["Username"]).partition("@")[0]
    usual = {**_NEW_USER, "LastName": name, "Email": words["Username"], "CommunityNickname": name}
    usual |= {} if profile is None else {"ProfileId": profile[0]}
    with org.store.write() as conn, org.changing(conn, org.admin_id) as change:
        return dml.insert(change, existing(org, "User"), {**usual, **words})


def put_client(org: Org, words: Words) -> None:
    """Add or replace a connected app: `id`, `secret`, `redirect_uris`, `scopes`, `certificate`, `run_as`, …"""
    lists = {key: tuple(words.get(key, ())) for key in ("redirect_uris", "scopes")}
    check_words(Client, words, "a connected app")
    org.tokens.put_client(Client(**{**words, **lists}))


def hide(org: Org, words: Words) -> None:
    """Hide from `user` (an id or a user name): `objects`, `fields` ({object: [names]}), `rows` (ids); `show_rows`
    shows ids again."""
    named = str(words["user"])
    found = users.by_name(org, named) if "@" in named else None
    user = found.id if found else to_18(named)
    if user is None:
        raise ValueError(f"there is no user {named}")
    if "objects" in words or "fields" in words:
        org.access.hide(user, words.get("objects", []), words.get("fields", {}))
    org.access.hide_rows(user, ids(words.get("rows", [])))
    org.access.show_rows(user, ids(words.get("show_rows", [])))


def ids(given: Iterable[Any]) -> list[str]:
    """Ids of 15 or 18 characters as the store has them. Raises ValueError for what is none."""
    named = {one: to_18(str(one)) for one in given}
    wrong = [str(one) for one, full in named.items() if full is None]
    if wrong:
        raise ValueError(f"no ids: {', '.join(wrong)}")
    return [full for full in named.values() if full is not None]


def _add_records(org: Org, records: Mapping[str, list[Words]]) -> None:
    """Create the records of a definition, once: they are there if the same ones were created before."""
    mark = json.dumps(records, sort_keys=True)
    if not records or org.store.setting("defined_records") == mark:
        return
    with org.store.write() as conn, org.changing(conn, org.admin_id) as change:
        for name, rows in records.items():
            for row in rows:
                dml.insert(change, existing(org, name), row)
    org.store.keep_setting("defined_records", mark)
