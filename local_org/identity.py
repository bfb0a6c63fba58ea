"""Who a token stands for: userinfo, the identity URL, introspection, discovery.

Source: Salesforce Help, "Identity URLs", "OpenID Connect UserInfo Endpoint", "Token Introspection".
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from local_org.users import User
from local_org.values import datetime_text

if TYPE_CHECKING:
    from local_org.org import Org
    from local_org.tokens import Session

SCOPES = ("api", "web", "full", "refresh_token", "offline_access", "openid", "id", "profile", "email", "address",
          "phone", "chatter_api", "visualforce", "lightning", "content", "custom_permissions", "pardot_api",
          "wave_api", "eclair_api", "sfap_api", "mcp_api", "chatbot_api", "cdp_query_api", "cdp_profile_api",
          "cdp_ingest_api", "einstein_gpt_api", "forgot_password", "user_registration_api",
          "pwdless_login_api")  # fmt: skip

_REST = {"rest": "", "sobjects": "sobjects/", "search": "search/", "query": "query/", "recent": "recent/",
         "tooling_rest": "tooling/", "feeds": "chatter/feeds", "groups": "chatter/groups",
         "users": "chatter/users", "feed_items": "chatter/feed-items",
         "feed_elements": "chatter/feed-elements"}  # fmt: skip
_SOAP = {"enterprise": "c", "metadata": "m", "partner": "u", "tooling_soap": "T"}


def urls(org: "Org", user: User, base: str, version: str) -> dict[str, str]:
    """Service addresses; `version` may be the literal "{version}"."""
    soap = {name: f"{base}/services/Soap/{kind}/{version}/{org.organization_id}" for name, kind in _SOAP.items()}
    rest = {name: f"{base}/services/data/v{version}/{path}" for name, path in _REST.items()}
    return {**soap, **rest, "profile": f"{base}/{user.id}", "custom_domain": base}


def utc_offset_ms(org: "Org", user: User) -> int:
    """Offset of the user's zone without summer time."""
    year = datetime.fromtimestamp(org.store.clock.exact_ms() / 1000, UTC).year
    zone = ZoneInfo(user.zone or "UTC")
    offsets = [datetime(year, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]
    return int(min(offset.total_seconds() for offset in offsets if offset is not None) * 1000)


def userinfo(org: "Org", user: User, base: str, identity: str) -> dict[str, Any]:
    """GET /services/oauth2/userinfo."""
    photo = f"{base}/profilephoto/005"
    return {
        "sub": identity,
        "user_id": user.id,
        "organization_id": org.organization_id,
        "preferred_username": user.username,
        "nickname": user.nickname,
        "name": user.name,
        "email": user.email,
        "email_verified": True,
        "given_name": user.first_name,
        "family_name": user.last_name,
        "zoneinfo": user.zone,
        "photos": {"picture": f"{photo}/F", "thumbnail": f"{photo}/T"},
        "profile": f"{base}/{user.id}",
        "picture": f"{photo}/F",
        "address": _address(user),
        "urls": urls(org, user, base, "{version}"),
        "active": bool(user.active),
        "user_type": (user.type or "Standard").upper(),
        "language": user.language,
        "locale": user.locale,
        "utcOffset": utc_offset_ms(org, user),
        "updated_at": datetime_text(user.stamp_ms or 0).replace(".000+0000", "Z"),
        "is_app_installed": True,
    }


def _address(user: User) -> dict[str, str]:
    parts = {
        "street_address": user.street,
        "locality": user.city,
        "region": user.state,
        "postal_code": user.postal_code,
        "country": user.country,
    }
    return {name: value for name, value in parts.items() if value}


def identity(org: "Org", user: User, base: str, url: str, version: str) -> dict[str, Any]:
    """GET of the identity URL."""
    photo = f"{base}/profilephoto/005"
    return {
        "id": url,
        "asserted_user": True,
        "user_id": user.id,
        "organization_id": org.organization_id,
        "username": user.username,
        "nick_name": user.nickname,
        "display_name": user.name,
        "email": user.email,
        "email_verified": True,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "timezone": user.zone,
        "photos": {"picture": f"{photo}/F", "thumbnail": f"{photo}/T"},
        "addr_street": user.street,
        "addr_city": user.city,
        "addr_state": user.state,
        "addr_country": user.country,
        "addr_zip": user.postal_code,
        "mobile_phone": user.mobile,
        "mobile_phone_verified": False,
        "is_lightning_login_user": False,
        "status": {"created_date": None, "body": None},
        "urls": urls(org, user, base, version),
        "active": bool(user.active),
        "user_type": (user.type or "Standard").upper(),
        "language": user.language,
        "locale": user.locale,
        "utcOffset": utc_offset_ms(org, user),
        "last_modified_date": datetime_text(user.stamp_ms or 0).replace(".000+0000", "Z"),
        "is_app_installed": True,
    }


def introspection(session: "Session", user: User | None, identity_url: str) -> dict[str, Any]:
    """The answer for a living access token."""
    issued = session.issued_ms // 1000
    return {
        "active": True,
        "scope": session.scope,
        "client_id": session.client_id,
        "username": user.username if user else None,
        "sub": identity_url,
        "token_type": "access_token",
        "exp": session.expires_ms // 1000,
        "iat": issued,
        "nbf": issued,
    }


def discovery(base: str) -> dict[str, Any]:
    """/.well-known/openid-configuration."""
    oauth = f"{base}/services/oauth2"
    return {
        "issuer": base,
        "authorization_endpoint": f"{oauth}/authorize",
        "token_endpoint": f"{oauth}/token",
        "revocation_endpoint": f"{oauth}/revoke",
        "userinfo_endpoint": f"{oauth}/userinfo",
        "introspection_endpoint": f"{oauth}/introspect",
        "jwks_uri": f"{base}/id/keys",
        "registration_endpoint": f"{oauth}/register",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "password",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
        ],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "display_values_supported": ["page", "popup", "touch"],
        "claims_supported": ["active", "email", "email_verified", "family_name", "given_name", "name", "nickname",
                             "organization_id", "preferred_username", "sub", "user_id", "zoneinfo"],
    }  # fmt: skip
