"""Describe → table: types, names, what is skipped, what changed."""

import pytest
from psycopg import sql

from worker.mirror import ddl
from worker.mirror.schema import Change, UnfitObjectError, changes, meanings, table_spec
from worker.salesforce.describe import ObjectDescribe, parse


def described(fields: dict[str, str], **words: object) -> ObjectDescribe:
    entries = [{"name": name, "type": kind} for name, kind in fields.items()]
    return parse({"name": "Invoice__c", "fields": entries, **words})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("id", "text"),
        ("reference", "text"),
        ("string", "text"),
        ("textarea", "text"),
        ("multipicklist", "text"),
        ("encryptedstring", "text"),
        ("anyType", "text"),
        ("a type of next year", "text"),
        ("boolean", "boolean"),
        ("int", "bigint"),
        ("long", "bigint"),
        ("double", "numeric"),
        ("currency", "numeric"),
        ("percent", "numeric"),
        ("date", "date"),
        ("datetime", "timestamp with time zone"),
        ("time", "time without time zone"),
    ],
)
def test_each_type_has_a_column_that_holds_it_exactly(kind: str, expected: str) -> None:
    spec = table_spec(described({"Id": "id", "Value__c": kind}))
    assert spec.columns[1].type == expected
    assert spec.columns[1].name == "value__c"


def test_compound_fields_are_left_to_their_parts_and_binary_ones_are_said_to_be_skipped() -> None:
    fields = {"Body": "base64", "Address": "address", "Street": "string", "Place__c": "location", "Id": "id"}
    spec = table_spec(described(fields))
    assert spec.fields == ("Id", "Street")
    assert spec.skipped == ("Body",)


@pytest.mark.parametrize("stamps", [("SystemModstamp", "LastModifiedDate", "CreatedDate"), ("CreatedDate",), ()])
def test_the_first_stamp_that_an_object_has_orders_its_versions(stamps: tuple[str, ...]) -> None:
    spec = table_spec(described({"Id": "id", **dict.fromkeys(reversed(stamps), "datetime")}))
    assert spec.stamp == (stamps[0] if stamps else None)


def test_a_stamp_that_cannot_be_asked_for_orders_nothing() -> None:
    fields = [
        {"name": "Id", "type": "id"},
        {"name": "SystemModstamp", "type": "datetime", "filterable": False, "sortable": False},
        {"name": "CreatedDate", "type": "datetime", "filterable": True, "sortable": True},
    ]
    assert table_spec(parse({"name": "Odd", "fields": fields})).stamp == "CreatedDate"


def test_what_follows_tasks_and_events_is_swept_like_a_formula() -> None:
    spec = table_spec(
        described({"Id": "id", "LastActivityDate": "date", "HasOpenActivity": "boolean", "Name": "string"})
    )
    assert spec.calculated == ("LastActivityDate", "HasOpenActivity")


def test_chosen_columns_keep_what_a_mirror_needs() -> None:
    fields = {"Id": "id", "A__c": "string", "B__c": "string", "IsDeleted": "boolean", "SystemModstamp": "datetime"}
    assert table_spec(described(fields), chosen=["a__C"]).fields == ("Id", "A__c", "IsDeleted", "SystemModstamp")


def test_an_object_that_cannot_be_queried_is_refused() -> None:
    with pytest.raises(UnfitObjectError, match="Invoice__c cannot be queried"):
        table_spec(described({"Id": "id"}, queryable=False))
    with pytest.raises(UnfitObjectError, match="no Id"):
        table_spec(described({"Name": "string"}))


def test_what_came_went_and_changed_its_type_is_told() -> None:
    before = table_spec(described({"Id": "id", "Old__c": "string", "N__c": "int"}))
    after = table_spec(described({"Id": "id", "New__c": "date", "N__c": "double"}))
    assert changes(before, after) == [
        Change("New__c", "added", "date"),
        Change("Old__c", "removed", "text"),
        Change("N__c", "retyped", "bigint → numeric"),
    ]
    assert changes(after, after) == []


@pytest.mark.parametrize(
    ("existing", "wanted", "expected"),
    [
        ("bigint", "bigint", "bigint"),
        ("bigint", "numeric", "numeric"),
        ("numeric", "bigint", "numeric"),
        ("text", "numeric", "text"),
        ("date", "text", "text"),
        ("boolean", "numeric", "text"),
    ],
)
def test_a_column_only_ever_gets_wider(existing: str, wanted: str, expected: str) -> None:
    assert ddl.fitting(existing, wanted) == expected
    assert ddl.fitting(expected, wanted) == expected


def test_names_are_quoted() -> None:
    spec = table_spec(described({"Id": "id", "Order": "string"}))
    (statement,) = ddl.plan(spec, None, schema='odd"schema')
    text = statement.as_string(None)
    assert '"odd""schema"."invoice__c"' in text
    assert '"order" text' in text


def test_index_names_fit_and_differ() -> None:
    table, columns = "t" * 50, ["c" * 40, "d" * 40]
    names = {ddl.index_name(table, [column]) for column in columns}
    assert len(names) == 2
    assert max(map(len, names)) <= 63
    assert ddl.index_name("a", ["b"]) == "ix_a_b"
    assert isinstance(ddl.widen(sql.Identifier("t"), "c", "text"), sql.Composed)


def test_a_wide_object_is_spread_over_parts_and_its_columns_keep_their_places() -> None:
    fields = {"Id": "id", "SystemModstamp": "datetime", **{f"F{n}__c": "string" for n in range(800)}}
    spec = table_spec(described(fields))
    assert spec.parts == 3
    assert {"id", "systemmodstamp"} <= set(spec.part(1))
    places = {column.name: column.part for column in spec.columns}
    grown = table_spec(described({"New__c": "string", **fields}), layout=places)
    assert {column.name: column.part for column in grown.columns} == {"new__c": 3, **places}
    shrunk = table_spec(described({"Id": "id", "SystemModstamp": "datetime"}), layout=places)
    assert (shrunk.parts, len(shrunk.columns)) == (3, 2)


def test_a_table_that_stands_in_one_piece_stays_so() -> None:
    fields = {"Id": "id", **{f"F{n}__c": "string" for n in range(600)}}
    assert table_spec(described(fields), layout=dict.fromkeys(map(str.lower, fields), 1)).parts == 1


def test_changes_of_what_a_field_may_hold_are_told() -> None:
    def one(**words: object) -> ObjectDescribe:
        return parse({"name": "Thing", "fields": [{"name": "F__c", "type": "picklist", **words}]})

    before = one(length=40, picklistValues=[{"value": "A", "active": True}, {"value": "B", "active": True}])
    after = one(length=80, picklistValues=[{"value": "A", "active": True}, {"value": "B", "active": False}])
    assert meanings(before, after) == [
        Change("F__c", "picklist", "− B"),
        Change("F__c", "resized", "length 40 → 80"),
    ]
    assert meanings(after, after) == []
