"""Whether an org serves our API version: one that it does not know, or not any more, makes everything "not found"."""

import time
from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError

KNOWN_SECONDS = 600.0  # an org may be moved to where our version is not served yet, or no longer

_served_at: dict[tuple[str, str], float] = {}  # (host, version) → when this process saw it listed


def is_served(host: str, version: str) -> bool:
    """Whether the host was seen to list this version, not long ago."""
    seen = _served_at.get((host, version))
    return seen is not None and time.monotonic() - seen < KNOWN_SECONDS


def check(host: str, version: str, listed: Any) -> None:
    """SettingsError when `listed`, the answer of /services/data, names other versions than ours."""
    entries = listed if isinstance(listed, list) else []
    found = [str(one["version"]) for one in entries if isinstance(one, Mapping) and one.get("version")]
    if found and version not in found:
        raise SettingsError(f"SALESFORCE_API_VERSION: {host} serves {found[0]} to {found[-1]}, not {version}")
    _served_at[host, version] = time.monotonic()
