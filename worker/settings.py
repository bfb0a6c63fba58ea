"""Settings: everything an operator may change, from the environment, checked once at start.

Each secret may also be given as a file: `ENCRYPTION_KEY_FILE=/run/secrets/key`.
Nothing else in the product reads the environment.
"""

import base64
import binascii
import difflib
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from worker.errors import SettingsError

ENCRYPTION_KEY_BYTES = 32
PREFIX = "SFSYNC_"  # of settings that are ours alone; those of design §10 keep their names

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=0.9)]


class Settings(BaseModel):
    """Everything an operator may change. Built once, at start; never read again.

    Field names in upper case are the variables' names; those below "ours alone" carry the prefix `SFSYNC_`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr  # postgresql://user:password@host:port/name
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    encryption_key: SecretStr  # one or more keys, comma separated: the first encrypts, all decrypt
    salesforce_client_id: str = ""
    salesforce_client_secret: SecretStr = SecretStr("")
    salesforce_redirect_uri: str = ""  # empty: the local callback of `sfsync connect`, or the shim's
    salesforce_api_version: str = "62.0"
    salesforce_login_url: str = "https://login.salesforce.com"
    salesforce_allowed_hosts: tuple[str, ...] = ()  # e.g. http://localhost:8080
    salesforce_ca_file: Path | None = None

    # ours alone
    shim_host: str = "127.0.0.1"
    shim_port: int = 8180
    poll_seconds: Seconds = 1.0  # how often each worker process asks Postgres for due work
    refresh_seconds: Seconds = 60.0  # default interval of a mirror's fresh reader
    longest_refresh_seconds: Seconds = 3600.0  # no refresh is put off longer than this while others could give
    audit_seconds: float = Field(
        default=21_600.0, ge=0
    )  # between two audits of a mirror; 0: it is not audited by itself
    sweep_seconds: Seconds = 3600.0  # the same where the object has calculated fields, which move without a stamp
    settle_seconds: Seconds = 240.0  # interval of the settle reader while there are changes; three times that without
    removal_share: Share = 0.2  # a read that would remove a larger share of a mirror without a deletion asks a person
    overlap_seconds: Seconds = 30.0  # how far a fresh read reaches back before its cursor
    claim_seconds: Seconds = 45.0  # a claim that is not renewed for this long may be taken by another worker
    bulk_poll_seconds: Seconds = 5.0  # longest pause between two looks at a running Bulk job; each spends a call
    bulk_page_rows: Count = 50_000  # rows asked for per page of a Bulk result
    bulk_threshold_rows: Count = 10_000  # a refresh of more rows than this goes by Bulk
    page_workers: Count = 2  # pages of one run loaded at the same time by one process
    worker_threads: Count = 8
    parallel_calls: Count = 20  # calls of one org at once, over all processes; 5 at most where the org is a small one
    run_days: Seconds = 30.0  # how long finished runs, verifications and syncs are kept; runs that found nothing, a day
    usage_days: Count = 35  # how long it is kept what calls were spent on
    alert_lag_seconds: Seconds = 900.0  # doctor and health complain of a mirror further behind than this
    alert_undelivered_seconds: Seconds = 900.0  # … of an action that waits longer than this
    alert_allowance_share: Share = 0.1  # … of an org with a smaller share of its daily calls left
    reserve_share: Share = 0.2  # of an org's daily calls that is kept for actions
    request_seconds: Seconds = 120.0  # whole deadline of one REST call
    page_seconds: Seconds = 1200.0  # whole deadline of one Bulk page (the vendor's own limit is 20 minutes)
    settling_seconds: Seconds = 600.0  # the org's longest request: after this an unanswered write can no longer land
    bulk_create_rows: Count = (
        200  # so many waiting creates without a key field go by a Bulk job, which is never in doubt
    )
    bulk_ingest_rows: Count = 10_000  # more waiting actions of any other kind than this go by Bulk jobs
    idempotency_keys: bool = (
        True  # single creates without a key field go through the UI API where the org heeds its keys
    )
    external_key_field: str = ""  # a unique external-id text field that carries an action's key; empty: found by name
    action_days: Seconds = 30.0  # how long an action without idempotency key is kept after it ended
    key_days: Seconds = 90.0  # how long one with a key is: so long its key is remembered
    callback_allowed_hosts: tuple[str, ...] = ()  # origins that callbacks may go to by http, or at private addresses
    callback_ca_file: Path | None = None  # added to the public roots
    callback_seconds: Seconds = 15.0  # whole deadline of one call
    webhook_url: str = ""  # the operator's own: told when a connection is revoked
    webhook_secret: SecretStr = SecretStr("")  # whsec_…: signs for the operator, and for users without a secret
    redelivery_seconds: Seconds = 300.0  # a message of a worker that died goes to another after this; the same for all
    firing_days: Seconds = 90.0  # how long the history of finished firings is kept
    wait_seconds: Seconds = 10.0  # how long an HTTP write waits for its outcome when the caller does not say
    shim_body_bytes: Count = 1_048_576  # a larger request body is refused
    shim_batch_bytes: Count = 33_554_432  # the same for POST /api/salesforce/actions, which takes many at once
    shim_body_seconds: Seconds = 30.0  # a request whose body takes longer to come is refused
    flower_url: str = ""  # where the status page's link to Flower leads; empty: no link
    shim_requests_per_minute: Count = 3000  # of one API key, per shim process; bursts of a tenth of it pass
    objects: tuple[str, ...] = (
        "Account",
        "Contact",
        "Opportunity",
    )  # mirrored when nothing else was asked for
    log_json: bool = False
    log_level: str = "INFO"
    data_folder: Path = Path(".sfsync")  # embedded servers, their key and logs

    @field_validator("salesforce_allowed_hosts", "callback_allowed_hosts", "objects", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("salesforce_ca_file", "callback_ca_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None

    @field_validator("salesforce_ca_file", "callback_ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("encryption_key")
    @classmethod
    def _keys_decode(cls, value: SecretStr) -> SecretStr:
        if not decode_keys(value.get_secret_value()):
            raise ValueError("it is empty; make one with `sfsync keys generate`")
        return value

    @field_validator("salesforce_login_url", "salesforce_allowed_hosts", "callback_allowed_hosts")
    @classmethod
    def _is_url(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (value,) if isinstance(value, str) else value:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no URL; give scheme and host, as https://login.salesforce.com")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signs(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if text and not 24 <= len(key) <= 64:
            raise ValueError("it is whsec_ and base64 of 24 to 64 random bytes")
        return value

    @field_validator("salesforce_api_version")
    @classmethod
    def _version(cls, value: str) -> str:
        version = value.removeprefix("v")
        major, dot, minor = version.partition(".")
        if not (major.isdigit() and dot and minor.isdigit()):
            raise ValueError(f"{value!r} is no API version; give it as 62.0")
        return version

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("it must begin with postgresql://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must begin with redis:// or rediss://")
        return value

    @property
    def claim_ttl(self) -> timedelta:
        """How long a claim lasts without renewal."""
        return timedelta(seconds=self.claim_seconds)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The encryption keys, 32 bytes each; the first encrypts."""
        return decode_keys(self.encryption_key.get_secret_value())


# The variables of design §10; every other field of Settings is read with PREFIX.
SHARED_NAMES = frozenset(
    {
        "database_url",
        "redis_url",
        "encryption_key",
        "salesforce_client_id",
        "salesforce_client_secret",
        "salesforce_redirect_uri",
        "salesforce_api_version",
        "salesforce_login_url",
        "salesforce_allowed_hosts",
        "salesforce_ca_file",
    }
)
SECRET_NAMES = frozenset({"database_url", "redis_url", "encryption_key", "salesforce_client_secret", "webhook_secret"})


def variable(name: str) -> str:
    """The environment variable of one setting."""
    return name.upper() if name in SHARED_NAMES else f"{PREFIX}{name.upper()}"


def decode_keys(text: str) -> tuple[bytes, ...]:
    """Comma-separated url-safe base64 keys → bytes. Raises ValueError for a key that is not 32 bytes."""
    keys = []
    for position, part in enumerate((part.strip() for part in text.split(",") if part.strip()), start=1):
        try:
            key = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != ENCRYPTION_KEY_BYTES:
            raise ValueError(
                f"key {position} is not {ENCRYPTION_KEY_BYTES} bytes of url-safe base64; "
                "make one with `sfsync keys generate`"
            )
        keys.append(key)
    return tuple(keys)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment, `overrides` (by field name) winning.

    Raises SettingsError with one line for each fault.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = _read(environ, name)
        if value is not None:
            values[name] = value
    values.update({name: value for name, value in overrides.items() if value is not None})
    _refuse_misspelt(environ)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(fault) for fault in error.errors())) from None


def _read(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(variable(name))
    file = environ.get(f"{variable(name)}_FILE") if name in SECRET_NAMES else None
    if file is None:
        return value if value != "" else None
    if value:
        raise SettingsError(f"{variable(name)} and {variable(name)}_FILE are both set: keep one of them")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{variable(name)}_FILE: cannot read {file} ({error.strerror})") from None


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """A variable with our prefix that names no setting is a misspelt one: refuse it rather than ignore it."""
    known = [variable(name) for name in Settings.model_fields if name not in SHARED_NAMES]
    known += [f"{variable(name)}_FILE" for name in SECRET_NAMES - SHARED_NAMES]
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{name} is not a setting{hint}")


HELP = {
    "database_url": "give it as postgresql://user:password@host/name, or use `sfsync up`, which brings its own",
    "encryption_key": "make a key with `sfsync keys generate` and keep it: tokens cannot be read without it",
}


def _explain(fault: Any) -> str:
    name = str(fault["loc"][0])
    if fault["type"] == "missing":
        return f"{variable(name)} is not set: {HELP[name]}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{variable(name)} is wrong: {message}"
