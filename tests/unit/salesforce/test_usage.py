"""Sforce-Limit-Info."""

import pytest

from worker.salesforce.usage import Usage, parse_usage


@pytest.mark.parametrize(
    ("header", "used", "most"),
    [
        ("api-usage=18/5000", 18, 5000),
        ("api-usage=25/5000; per-app-api-usage=17/250(appName=sample-connected-app)", 25, 5000),
        ("per-app-api-usage=17/250(appName=x); api-usage=25/5000", 25, 5000),
    ],
)
def test_the_orgs_count_is_read(header: str, used: int, most: int) -> None:
    assert parse_usage(header, None) == Usage(used, most, None)


@pytest.mark.parametrize("header", [None, "", "per-app-api-usage=17/250(appName=x)", "nonsense"])
def test_no_count_is_no_count(header: str | None) -> None:
    assert parse_usage(header, None) is None
