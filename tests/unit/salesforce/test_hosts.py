"""Which hosts may be given a token."""

import pytest

from worker.errors import SettingsError
from worker.salesforce.hosts import allowed, check_login_url, origin


@pytest.mark.parametrize(
    "url",
    [
        "https://login.salesforce.com",
        "https://acme.my.salesforce.com/",
        "https://acme--dev.sandbox.my.salesforce.com:443",
        "https://ACME.my.salesforce.com",
        "https://x.force.com",
        "https://acme.my.salesforce.mil",
    ],
)
def test_salesforces_own_hosts_are_allowed(url: str) -> None:
    assert allowed(url, ())


@pytest.mark.parametrize(
    "url",
    [
        "http://login.salesforce.com",
        "https://login.salesforce.com:8443",
        "https://evil-salesforce.com",
        "https://salesforce.com.evil.com",
        "https://evil.com/.my.salesforce.com",
        "https://evil.com?.salesforce.com",
        "https://evil.com#.salesforce.com",
        "https://evil.com\\.salesforce.com",
        "https://a@login.salesforce.com",
        "https://login.salesforce.com@evil.com",
        "https://x.my.salesforce.com.evil.com",
        "https://xn--slesforce-l8a.com",
        "https://sälesforce.com",
        "https://[::1]/.salesforce.com",
        "https://127.0.0.1",
        "https:///login.salesforce.com",
        "ftp://login.salesforce.com",
        "https://login.salesforce.com\t.evil.com",
        "https://.salesforce.com",
        "https://a..salesforce.com",
        "javascript:alert(1)//.salesforce.com",
        "",
    ],
)
def test_whatever_looks_like_them_is_not(url: str) -> None:
    assert not allowed(url, ())


def test_a_listed_host_is_allowed_with_its_scheme_and_port_only() -> None:
    listed = ("http://localhost:8080/", "https://org.example")
    assert allowed("http://localhost:8080", listed)
    assert allowed("https://org.example:443/", listed)
    assert not allowed("http://localhost:8081", listed)
    assert not allowed("https://localhost:8080", listed)
    assert not allowed("http://org.example", listed)


def test_a_login_url_loses_its_path_and_keeps_its_scheme() -> None:
    assert check_login_url("http://localhost:8080/x/", ["http://localhost:8080"]) == "http://localhost:8080"
    assert check_login_url("https://login.salesforce.com/", ()) == "https://login.salesforce.com"


def test_a_login_url_that_is_not_allowed_says_in_one_line_what_to_set() -> None:
    with pytest.raises(SettingsError) as caught:
        check_login_url("http://localhost:8080", ())
    text = str(caught.value)
    assert "SALESFORCE_LOGIN_URL" in text
    assert "SALESFORCE_ALLOWED_HOSTS=http://localhost:8080" in text
    assert "\n" not in text


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://[::1]:8443/x") == ("https", "::1", 8443)
    assert origin("https://host:99999") is None
