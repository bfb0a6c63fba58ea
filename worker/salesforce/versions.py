"""Whether an org serves our API version: one that it does not know, or not any more, makes everything "not found"."""

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError

_serving: set[tuple[str, str]] = set()  # (host, version), as this process has learnt


def is_served(host: str, version: str) -> bool:
    """Whether the host was seen to list this version."""
    return (host, version) in _serving


def check(host: str, version: str, listed: Any) -> None:
    """SettingsError when `listed`, the answer of /services/data, names other versions than ours."""
    entries = listed if isinstance(listed, list) else []
    found = [str(one["version"]) for one in entries if isinstance(one, Mapping) and one.get("version")]
    if found and version not in found:
        raise SettingsError(f"SALESFORCE_API_VERSION: {host} serves {found[0]} to {found[-1]}, not {version}")
    _serving.add((host, version))
