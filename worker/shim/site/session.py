"""The status page's sign-in: an admin's API key is exchanged for a signed cookie that names the key and ends by itself.

Nothing is stored: the signature proves that we made it, and at every request the key is looked up again, so that revoking the
key ends its sessions at once. The signing key is derived from the first ENCRYPTION_KEY.
"""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LENGTH = timedelta(hours=12)


class Sessions:
    """Makes and reads session cookies: `key id.end.signature`."""

    def __init__(self, encryption_key: bytes) -> None:
        self._secret = HKDF(SHA256(), 32, salt=None, info=b"sfsync status page").derive(encryption_key)

    def make(self, key_id: int, now: datetime) -> str:
        """A cookie for the API key `key_id`, good for `LENGTH` from `now`."""
        body = f"{key_id}.{int((now + LENGTH).timestamp())}"
        return f"{body}.{self._sign(body)}"

    def read(self, cookie: str, now: datetime) -> int | None:
        """The key id in a cookie of ours that has not ended; None for anything else."""
        body, _, signature = cookie.rpartition(".")
        key_id, _, end = body.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return None
        return int(key_id) if int(end) > now.timestamp() else None

    def form_token(self, cookie: str) -> str:
        """What a form of this session must carry: a page of somebody else cannot know it."""
        return self._sign(f"form:{cookie}")

    def is_form_token(self, cookie: str, token: str) -> bool:
        """Whether a form was made for this session. Compares in constant time."""
        return hmac.compare_digest(self.form_token(cookie).encode(), token.encode())

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._secret, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
