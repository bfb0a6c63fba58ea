"""JSON Web Tokens with RS256: read and checked against a certificate, or signed with the org's own key."""

import base64
import json
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

KEY_FILE = "signing-key.pem"
KEY_ID = "1"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str, certificate_pem: str) -> dict[str, Any]:
    """The claims of a token that the key of this certificate (or this public key) signed. Raises ValueError."""
    head, dot, signature = token.rpartition(".")
    key = _public_key(certificate_pem)
    if not dot or not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RS256 token")
    try:
        key.verify(unb64(signature), head.encode(), padding.PKCS1v15(), hashes.SHA256())
        header, claims = (json.loads(unb64(part)) for part in head.split("."))
    except InvalidSignature:
        raise ValueError("the signature does not match") from None
    if header.get("alg") != "RS256" or not isinstance(claims, dict):
        raise ValueError("not an RS256 token")
    return claims


def _public_key(pem: str) -> Any:
    data = pem.encode()
    if b"CERTIFICATE" in data:
        return x509.load_pem_x509_certificate(data).public_key()
    return serialization.load_pem_public_key(data)


class Signer:
    """The org's own key, made at first use and kept in the data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / KEY_FILE
        self._key: rsa.RSAPrivateKey | None = None

    def _private(self) -> rsa.RSAPrivateKey:
        if self._key is None:
            self._key = self._load() if self._path.exists() else self._make()
        return self._key

    def _load(self) -> rsa.RSAPrivateKey:
        key = serialization.load_pem_private_key(self._path.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    def _make(self) -> rsa.RSAPrivateKey:
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._path.touch(0o600)
        self._path.write_bytes(pem)
        return key

    def sign(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT"}
        head = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
        signature = self._private().sign(head.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{head}.{b64(signature)}"

    def jwks(self) -> dict[str, Any]:
        """The public key in the form of /id/keys."""
        numbers = self._private().public_key().public_numbers()
        modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "e": "AQAB", "n": b64(modulus)}
        return {"keys": [key]}
