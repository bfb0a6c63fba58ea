"""`sfsync connect --jwt-key`: a key of our own, sessions signed for anew, the key nowhere in the clear."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.edge.test_connect_cli import Env, env, run, run_json
from tests.org import Org, start_org
from worker.cli.output import Exit
from worker.db import Database
from worker.errors import DisconnectedError, TransientError
from worker.salesforce import rest
from worker.salesforce.client import OrgClient, http_options
from worker.settings import Settings, load_settings
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault, generate_key

__all__ = ["env"]

APP = "3MVG9servers"


@pytest.fixture(scope="module")
def org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("org") / "org", seed="Account=1,Contact=1") as running:
        yield running


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> str:
    protection: serialization.KeySerializationEncryption = NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection).decode()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def jwt_env(env: Env, org: Org, key: rsa.RSAPrivateKey) -> Env:
    """The environment of an app that knows the key's public half, and has no secret."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    org.control.put_client(APP, certificate=public)
    return {
        **{name: value for name, value in env.items() if name != "SALESFORCE_CLIENT_SECRET"},
        "SALESFORCE_CLIENT_ID": APP,
    }


@pytest.fixture
def key_file(tmp_path: Path, key: rsa.RSAPrivateKey) -> str:
    file = tmp_path / "server.key"
    file.write_text(pem(key))
    return str(file)


def connect(env: Env, org: Org, key_file: str) -> tuple[OrgClient, Settings]:
    done = run_json(env, "connect", "--user-id", "me", "--jwt-key", key_file, "--username", org.username)
    assert (done["organization_id"], done["username"]) == (org.organization_id, org.username)
    settings = load_settings(env)
    database = Database(env["DATABASE_URL"], pool_size=2)
    tokens = StoredTokens(database, Vault(settings.keys), settings, done["connection_id"])
    return OrgClient(tokens, http_options(settings)), settings


def test_sessions_that_end_are_signed_for_anew(jwt_env: Env, org: Org, database: Database, key_file: str) -> None:
    client, _ = connect(jwt_env, org, key_file)
    for _ in range(3):
        org.control.expire_tokens()
        assert rest.query(client, "SELECT Id FROM Contact").total_size == 1
    with psycopg.connect(database.url) as connection:
        row = str(connection.execute("SELECT t::text FROM salesforce_oauth_tokens t").fetchone())
        outcomes = connection.execute("SELECT outcome FROM sfsync.renewals").fetchall()
    assert "PRIVATE" not in row
    assert outcomes == [("renewed",)] * 3


def test_the_key_is_encrypted_again_with_a_new_one_and_forgotten_at_the_end(
    jwt_env: Env, org: Org, database: Database, key_file: str
) -> None:
    connect(jwt_env, org, key_file)
    rotated = {**jwt_env, "ENCRYPTION_KEY": f"{generate_key()},{jwt_env['ENCRYPTION_KEY']}"}
    assert run_json(rotated, "keys", "rotate")["changed"] == 2  # the access token and the key
    run(rotated, "disconnect", "--user-id", "me")
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT jwt_key FROM salesforce_oauth_tokens").fetchall() == [(None,)]


def test_a_certificate_that_was_taken_away_is_the_operators_matter(jwt_env: Env, org: Org, key_file: str) -> None:
    client, _ = connect(jwt_env, org, key_file)
    other = rsa.generate_private_key(65537, 2048).public_key()
    org.control.put_client(
        APP, certificate=other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )
    org.control.expire_tokens()
    with pytest.raises(TransientError, match="certificate"):
        rest.query(client, "SELECT Id FROM Contact")


def test_a_user_who_is_not_known_ends_the_connection(jwt_env: Env, org: Org, database: Database, key_file: str) -> None:
    client, _ = connect(jwt_env, org, key_file)
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE salesforce_oauth_tokens SET username = 'nobody@acme.example'")
    org.control.expire_tokens()
    with pytest.raises(DisconnectedError, match="approved"):
        rest.query(client, "SELECT Id FROM Contact")


def test_a_key_that_cannot_sign_is_told_apart(jwt_env: Env, org: Org, tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    wrong = {
        "passphrase": pem(key, b"secret"),
        "RSA key of 2048": pem(ec.generate_private_key(ec.SECP256R1())),
        "no private key in PEM form": "-----BEGIN NOTHING-----",
        "2048 bits or more": pem(rsa.generate_private_key(65537, 1024)),
    }
    for words, text in wrong.items():
        arguments = ("connect", "--user-id", "me", "--jwt-key", "-", "--username", org.username)
        done = run(jwt_env, *arguments, text=text, code=Exit.SETTINGS)
        assert words in done.stderr
    file = str(tmp_path / "nowhere.key")
    run(jwt_env, "connect", "--user-id", "me", "--jwt-key", file, "--username", "x", code=Exit.USAGE)
    run(jwt_env, "connect", "--user-id", "me", "--jwt-key", file, code=Exit.USAGE)
    unknown = run(
        jwt_env,
        "connect",
        "--user-id",
        "me",
        "--jwt-key",
        "-",
        "--username",
        "x",
        text=pem(key),
        code=Exit.DISCONNECTED,
    )
    assert "approved" in unknown.stderr
