"""Which hosts may be given a token: Salesforce's own, and what the operator lists in SALESFORCE_ALLOWED_HOSTS. Pure."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from worker.errors import SettingsError

# Suffixes, each with its leading dot: `evil-salesforce.com` and `salesforce.com.evil.com` end on none of them.
# Source: Salesforce Help, "Required Domains"; "My Domain URL Formats".
SALESFORCE_DOMAINS = (".salesforce.com", ".force.com", ".salesforce.mil", ".cloudforce.com", ".my.site.com")
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_FORBIDDEN = re.compile(r"[\s\\\x00-\x20\x7f@]")

Origin = tuple[str, str, int]


def origin(url: str) -> Origin | None:
    """(scheme, host, port) of a URL; None when it is not a plain http(s) URL (user names, odd characters, no host)."""
    if _FORBIDDEN.search(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    if parts.scheme not in DEFAULT_PORTS or not host or not (_HOST.fullmatch(host) or ":" in host):
        return None
    return parts.scheme, host, port or DEFAULT_PORTS[parts.scheme]


def is_salesforce(url: str) -> bool:
    """Whether a URL is https on one of Salesforce's own domains, on the usual port."""
    place = origin(url)
    return place is not None and place[0] == "https" and place[2] == 443 and place[1].endswith(SALESFORCE_DOMAINS)


def is_listed(url: str, allowed_hosts: Iterable[str]) -> bool:
    """Whether a URL's scheme, host and port are listed by the operator. For these http and private addresses are fine."""
    place = origin(url)
    return place is not None and any(place == origin(listed) for listed in allowed_hosts)


def allowed(url: str, allowed_hosts: Iterable[str]) -> bool:
    """Whether a token may be sent to this URL's host."""
    return is_salesforce(url) or is_listed(url, allowed_hosts)


def check_login_url(url: str, allowed_hosts: Iterable[str], setting: str = "SALESFORCE_LOGIN_URL") -> str:
    """The URL's origin, without a trailing slash or path; SettingsError when its host is not allowed."""
    place = origin(url)
    if place is None:
        raise SettingsError(f"{setting}: {url!r} is no URL; give scheme and host, as https://login.salesforce.com")
    base = origin_text(place)
    if not allowed(url, allowed_hosts):
        raise SettingsError(
            f"{setting}: {base} is not a Salesforce host; to allow it set SALESFORCE_ALLOWED_HOSTS={base}"
        )
    return base


def origin_text(place: Origin) -> str:
    """(scheme, host, port) as a URL without a trailing slash; the usual port is left out."""
    scheme, host, port = place
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port == DEFAULT_PORTS[scheme] else f"{scheme}://{shown}:{port}"
