"""The signed assertion of the JWT bearer flow: who asks, for whom, at which log-in host, for three minutes.

Source: Salesforce Help, "OAuth 2.0 JWT Bearer Flow for Server-to-Server Integration".
"""

import base64
import json
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from worker.errors import SettingsError
from worker.salesforce.hosts import is_salesforce

LIFETIME = timedelta(minutes=3)  # the org takes up to five
LEAST_BITS = 2048


def check_key(pem: str) -> None:
    """Raise SettingsError unless `pem` is an RSA private key that can sign."""
    _key(pem)


def _key(pem: str) -> rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except TypeError:
        raise SettingsError(
            "the private key has a passphrase; take it off first: openssl rsa -in KEY -out KEY.plain"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("this is no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < LEAST_BITS:
        raise SettingsError(f"the org wants an RSA key of {LEAST_BITS} bits or more")
    return key


def audience(login_url: str, environment: str) -> str:
    """Whom the assertion is for: the common log-in host, whichever of an org's hosts is asked; a listed host itself."""
    if not is_salesforce(login_url):
        return login_url.rstrip("/")
    sandbox = environment == "sandbox" or ".sandbox." in login_url or "//test." in login_url
    return "https://test.salesforce.com" if sandbox else "https://login.salesforce.com"


def sign(pem: str, *, client_id: str, username: str, audience: str, now: datetime) -> str:
    """The assertion, signed with RS256. Raises SettingsError for a key that cannot sign."""
    claims = {"iss": client_id, "sub": username, "aud": audience, "exp": int((now + LIFETIME).timestamp())}
    head = f"{_part({'alg': 'RS256', 'typ': 'JWT'})}.{_part(claims)}"
    return f"{head}.{_b64(_key(pem).sign(head.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _part(value: dict[str, Any]) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
