"""What is a SOQL query, and how the platform words what is not. Source: SOQL and SOSL Reference."""

import pytest

from local_org.errors import ApiError
from local_org.soql import ast
from local_org.soql.parse import parse


def error(soql: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(soql)
    return caught.value


def test_keywords_may_have_any_case_and_objects_may_be_called_group_or_order() -> None:
    assert parse("select Id from Group where Name = null").source.path.text == "Group"
    query = parse("SELECT Order.Name FROM Order ORDER BY Order.Name")
    assert query.source.path.text == "Order"
    assert query.order[0].expression.text == "Order.Name"


def test_a_word_in_the_wrong_place_is_shown_with_a_caret_row_and_column() -> None:
    found = error("SELECT Id FORM Account")
    assert found.code == "MALFORMED_QUERY"
    assert found.message == (
        "\nSELECT Id FORM Account\n          ^\nERROR at Row:1:Column:11\nunexpected token: 'FORM'"
    )


def test_rows_and_columns_count_lines_of_the_query() -> None:
    found = error("SELECT Id\nFROM Account\nWHERE Name == 'a'")
    assert "ERROR at Row:3:Column:13\n" in found.message


def test_a_long_query_is_shown_in_part() -> None:
    found = error("SELECT " + ", ".join(f"Field{n}__c" for n in range(40)) + " FROM Account WHRE Id = null")
    _, shown, caret, *_ = found.message.split("\n")
    assert len(shown) < 90
    assert shown[len(caret) - 1 :].startswith("WHRE") or shown[len(caret) - 1 :].startswith("Id")


@pytest.mark.parametrize(
    ("soql", "text"),
    [
        ("SELECT Id", "unexpected token: '<EOF>'"),
        ("SELECT * FROM Account", "unexpected token: '*'"),
        ("SELECT FROM Account", "unexpected token: 'FROM'"),
        ("SELECT Id, FROM Account", "unexpected token: 'FROM'"),
        ('SELECT Id FROM Account WHERE Name = "a"', "line 1:36 no viable alternative at character '\"'"),
        ("SELECT Id FROM Account WHERE Name = 'a", "line 1:38 mismatched character '<EOF>' expecting '''"),
        ("SELECT Id FROM Account WHERE Name = 'a\\z'", "line 1:39 no viable alternative at character 'z'"),
        ("SELECT Id FROM Account WHERE Name = foo", "unexpected token: 'foo'"),
        ("", "SOQL statements cannot be empty or null"),
    ],
)
def test_malformed_queries_are_refused_in_the_platforms_words(soql: str, text: str) -> None:
    found = error(soql)
    assert (found.status, found.code) == (400, "MALFORMED_QUERY")
    assert found.message.endswith(text)


def test_and_and_or_do_not_mix_without_parentheses() -> None:
    assert error("SELECT Id FROM X WHERE a = 1 AND b = 2 OR c = 3").message.endswith("unexpected token: 'OR'")
    assert error("SELECT Id FROM X WHERE a = 1 OR b = 2 AND c = 3").message.endswith("unexpected token: 'AND'")
    assert isinstance(parse("SELECT Id FROM X WHERE (a = 1 AND b = 2) OR c = 3").where, ast.AnyOf)


def test_an_unescaped_plus_in_a_datetime_arrives_as_a_space_and_is_refused() -> None:
    found = error("SELECT Id FROM X WHERE CreatedDate > 2026-11-22T10:00:00 01:00")
    assert found.message.endswith("no viable alternative at character ' '")
    parsed = parse("SELECT Id FROM X WHERE CreatedDate > 2026-11-22T10:00:00+01:00").where
    assert isinstance(parsed, ast.Comparison)
    assert isinstance(parsed.value, ast.DateTime)


def test_escapes_in_strings_are_read() -> None:
    where = parse(r"SELECT Id FROM X WHERE a = 'It\'s \"\\\" \u00fc\n'").where
    assert isinstance(where, ast.Comparison)
    assert isinstance(where.value, ast.Text)
    assert where.value.value == 'It\'s "\\" ü\n'


def test_years_outside_1700_to_4000_and_days_that_do_not_exist_are_refused() -> None:
    for day in ("1699-12-31", "4001-01-01", "2026-02-30"):
        assert error(f"SELECT Id FROM X WHERE a = {day}").code == "MALFORMED_QUERY"


def test_named_dates_take_a_number_only_where_they_should() -> None:
    where = parse("SELECT Id FROM X WHERE a = LAST_N_DAYS:30").where
    assert isinstance(where, ast.Comparison)
    assert where.value == ast.NamedDate("LAST_N_DAYS", 30, 27)
    assert error("SELECT Id FROM X WHERE a = TODAY:3").message.endswith("unexpected token: 'TODAY:3'")
    assert error("SELECT Id FROM X WHERE a = LAST_N_DAYS").message.endswith("unexpected token: 'LAST_N_DAYS'")
