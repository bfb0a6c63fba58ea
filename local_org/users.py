"""Users as the log-in and the identity services see them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_org.errors import OAuthError

if TYPE_CHECKING:
    from local_org.org import Org

_COLUMNS = ("Id", "Username", "FirstName", "LastName", "Name", "Email", "CommunityNickname", "TimeZoneSidKey",
            "LanguageLocaleKey", "LocaleSidKey", "UserType", "IsActive", "SystemModstamp", "Street", "City",
            "State", "Country", "PostalCode", "MobilePhone")  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """The columns of a User row that identity answers show; names as in the row."""

    id: str
    username: str
    first_name: str | None
    last_name: str | None
    name: str | None
    email: str | None
    nickname: str | None
    zone: str | None
    language: str | None
    locale: str | None
    type: str | None
    active: int
    stamp_ms: int
    street: str | None
    city: str | None
    state: str | None
    country: str | None
    postal_code: str | None
    mobile: str | None


def _find(org: "Org", column: str, value: str) -> User | None:
    columns = ", ".join(f'"{name}"' for name in _COLUMNS)
    with org.store.read() as conn:
        row = conn.execute(f'SELECT {columns} FROM "User" WHERE "{column}" = ?', (value,)).fetchone()
    return None if row is None else User(*row)


def by_id(org: "Org", user_id: str) -> User | None:
    return _find(org, "Id", user_id)


def by_name(org: "Org", username: str) -> User | None:
    """The user of a user name; the default user name stands for the administrator, whoever that is."""
    return _find(org, "Username", username) or (
        by_id(org, org.admin_id) if username.lower() == org.default_username else None
    )


def log_in(org: "Org", username: str, password: str) -> User:
    """Raises OAuthError invalid_grant. All users have the same password; a security token may follow it."""
    user = by_name(org, username.strip())
    if user is None or password not in (org.password, org.password + org.settings.security_token):
        raise OAuthError("invalid_grant", "authentication failure")
    if not user.active:
        raise OAuthError("invalid_grant", "inactive user")
    return user
