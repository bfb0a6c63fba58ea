"""The client of one org: simple-salesforce's, with our session, whole deadlines and one renewal on 401.

The one place that sends requests to an org's API. Not shared between threads, except that `close` may be called from anywhere.
"""

import json as jsonlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from simple_salesforce.api import Salesforce

from worker.errors import (
    DisconnectedError,
    NotFoundError,
    OverBudgetError,
    SyncError,
    TransientError,
    UnknownOutcomeError,
)
from worker.log import blank
from worker.salesforce import transport, versions
from worker.salesforce.errors import RETRY_STATUSES, complaints, error_for, needs_renewal
from worker.salesforce.exchange import AccessToken, Answer, Opened, TokenSource
from worker.salesforce.hosts import allowed, is_listed, origin, origin_text
from worker.salesforce.metering import Meter, Unmetered, kind_of
from worker.salesforce.payload import dumps
from worker.salesforce.retrying import advice, pause
from worker.salesforce.transport import BROKEN, Call, Deadline, HttpOptions
from worker.salesforce.usage import Usage, parse_usage
from worker.settings import Settings

RETRIES = 3  # of a read that met a passing fault; a write is never repeated here
LONGEST_PAUSE_SECONDS = 20.0  # of a Retry-After that is waited for here; a longer one is the caller's to wait for
MOVED_PAUSE = timedelta(minutes=5)  # after a renewal that did not tell where a redirecting instance has gone
USER_AGENT = "sfsync"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    params: Mapping[str, Any] | None
    data: bytes | Any | None
    headers: Mapping[str, str]
    idempotent: bool


class _PassingError(Exception):
    """A fault that a repeated read may not meet."""

    def __init__(self, error: TransientError) -> None:
        self.error = error


class _ExpiredError(Exception):
    """401: the token is no longer good."""


class _MovedError(Exception):
    """The instance sends us to another host: a renewed token names the one to use. Nothing was carried out."""

    def __init__(self, error: SyncError) -> None:
        self.error = error


_useless_at: dict[str, float] = {}  # host → when a renewal did not tell where it has gone


def http_options(settings: Settings) -> HttpOptions:
    """What the settings say about speaking to an org."""
    return HttpOptions(
        version=settings.salesforce_api_version,
        allowed_hosts=settings.salesforce_allowed_hosts,
        ca_file=settings.salesforce_ca_file,
        request_seconds=settings.request_seconds,
        page_seconds=settings.page_seconds,
    )


class OrgClient(Salesforce):
    """A client for one connection.

    `calls`: requests sent to the org's API so far. `usage` and `org_time`: what the last answer's headers said, None until then.
    """

    def __init__(self, tokens: TokenSource, options: HttpOptions, *, meter: Meter | None = None) -> None:
        self.options = options
        self.meter: Meter = meter or Unmetered()
        self.calls = 0
        self.usage: Usage | None = None
        self.org_time: datetime | None = None
        self._tokens = tokens
        self._open_calls: set[Call] = set()
        self._closed = threading.Event()
        self._token = tokens.current()
        super().__init__(
            session_id=self._token.value,
            instance_url=self._token.instance_url,
            version=options.version,
            session=transport.new_session(options),
            parse_float=Decimal,
            object_pairs_hook=None,
        )
        self._adopt(self._token)

    def __getattr__(self, name: str) -> NoReturn:
        """No SFType objects and no bulk handlers: they know neither deadlines nor renewal."""
        raise AttributeError(f"OrgClient has no attribute {name!r}; use worker.salesforce.rest, bulk and composite")

    def __repr__(self) -> str:
        return f"<OrgClient {self.host} v{self.options.version}>"

    @property
    def host(self) -> str:
        """Host and port of the instance, for messages."""
        return urlsplit(self._token.instance_url).netloc

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: bytes | Any | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool,
        deadline: Deadline | None = None,
    ) -> Answer:
        """One call. `path` is below the API version's base (`query`, `jobs/query/750…`) or begins with /services/.

        A read (`idempotent`) is repeated a few times on 406, 420, 429, 5xx and broken connections; a write never. Success is a
        status below 300, or 304. Everything ends by `deadline` (default: the options' request_seconds from now).
        Raises TransientError, OverBudgetError, UnknownOutcomeError (a write without an answer), RejectedError and its children,
        DisconnectedError.
        """
        sent_headers = dict(headers or {})
        if json is not None:
            data = dumps(json)
            sent_headers.setdefault("Content-Type", "application/json")
        request = _Request(method, path, params, data, sent_headers, idempotent)
        limit = deadline or Deadline.after(self.options.request_seconds)
        return self._persist(request, limit, lambda: self._answer(request, limit))

    @contextmanager
    def open(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> Iterator[Opened]:
        """A GET whose body is read by the caller, in pieces, while the block lasts. The start is retried like any read.

        `chunks()` raises TransientError when the body breaks off or the deadline passes.
        """
        request = _Request("GET", path, params, None, dict(headers or {}), idempotent=True)
        limit = deadline or Deadline.after(self.options.page_seconds)
        stack, opened = self._persist(request, limit, lambda: self._begin(request, limit))
        with stack:
            yield opened

    def close(self) -> None:
        """Cut every open call off and start none: for another thread, when the claim behind this client's work is lost."""
        self._closed.set()
        for call in tuple(self._open_calls):
            call.cut()

    def _persist(self, request: _Request, limit: Deadline, attempt: Callable[[], T]) -> T:
        """Attempts until one succeeds: one renewal, and for reads a few repetitions within the deadline."""
        renewed = False
        failures = 0
        while True:
            try:
                return attempt()
            except _ExpiredError as error:
                if renewed:
                    raise self._tokens.refused(self._token, str(error)) from None
                self._adopt(self._tokens.renew(self._token))
                renewed = True
            except _MovedError as moved:
                if renewed or not self._follows():
                    raise moved.error from None
                renewed = True
            except NotFoundError as error:
                self._check_version(error, limit)
                raise
            except _PassingError as passing:
                seconds = pause(failures, passing.error.retry_after)
                failures += 1
                hopeless = failures > RETRIES or seconds > LONGEST_PAUSE_SECONDS or seconds >= limit.remaining()
                if not request.idempotent or hopeless or self._closed.wait(seconds):
                    raise passing.error from None

    def _follows(self) -> bool:
        """Whether a renewed token names another instance, as after an org's migration; we speak to that one then.

        Who redirects is asked so only now and then: each time costs a log-in.
        """
        left = self.host
        asked = _useless_at.get(left)
        if asked is not None and time.monotonic() - asked < MOVED_PAUSE.total_seconds():
            return False
        self._adopt(self._tokens.renew(self._token))
        if self.host == left:
            _useless_at[left] = time.monotonic()
        return self.host != left

    def _check_version(self, error: NotFoundError, limit: Deadline) -> None:
        """What is not found may be our API version: asked once of a host that serves it. SettingsError when it does not."""
        if versions.is_served(self.host, self.options.version) or error.code not in ("NOT_FOUND", "HTTP_404"):
            return
        try:
            listed = self._answer(_Request("GET", "/services/data", None, None, {}, idempotent=True), limit).body
        except (SyncError, _PassingError, _ExpiredError, _MovedError):
            return
        versions.check(self.host, self.options.version, listed)

    def _answer(self, request: _Request, limit: Deadline) -> Answer:
        response, content = self._fetch(request, limit)
        return Answer(response.status_code, response.headers, self._parse(content, request))

    def _fetch(self, request: _Request, limit: Deadline) -> tuple[requests.Response, bytes]:
        """Send and read the whole answer; raise what it means when it is no success."""
        stack, response, call = self._send(request, limit)
        with stack:
            content = self._read(response, call, request)
        if _is_failure(response):
            raise self._failure(response, content, request)
        return response, content

    def _read(self, response: requests.Response, call: Call, request: _Request) -> bytes:
        try:
            return b"".join(transport.chunks(response, call))
        except BROKEN as error:
            raise self._broken(error, call, request) from None

    def _begin(self, request: _Request, limit: Deadline) -> tuple[ExitStack, Opened]:
        """Send, look at the status, leave the body on the wire."""
        stack, response, call = self._send(request, limit)
        if _is_failure(response):
            with stack:
                content = self._read(response, call, request)
            raise self._failure(response, content, request)
        return stack, Opened(response.status_code, response.headers, lambda: self._chunks(response, call))

    def _chunks(self, response: requests.Response, call: Call) -> Iterator[bytes]:
        try:
            yield from transport.chunks(response, call)
        except BROKEN as error:
            raise TransientError(transport.trouble(error, call, self.host), code="BROKEN_OFF") from None

    def _send(self, request: _Request, limit: Deadline) -> tuple[ExitStack, requests.Response, Call]:
        """The open response, and what to close after it."""
        if self._closed.is_set() or limit.passed():
            raise TransientError(f"no time is left to call {self.host}", code="TIMEOUT")
        private_ok = is_listed(self._token.instance_url, self.options.allowed_hosts)
        silence = self.options.request_seconds if request.idempotent else None
        call = Call(limit, private_ok=private_ok, trust_idle=request.idempotent, silence_seconds=silence)
        with ExitStack() as guard:
            self._open_calls.add(call)
            guard.callback(self._open_calls.discard, call)
            permit = guard.enter_context(self.meter.permit(kind_of(request.method, request.path)))
            guard.enter_context(transport.watched(call))
            if self._closed.is_set():
                call.cut()
            try:
                response = transport.send(self.session, self._prepare(request), call)
            except BROKEN as error:
                raise self._broken(error, call, request) from None
            finally:
                self.calls += call.sent
                permit.used = call.sent
            guard.callback(response.close)
            permit.usage = self._note(response.headers)
            return guard.pop_all(), response, call

    def _prepare(self, request: _Request) -> requests.Request:
        base = self._token.instance_url if request.path.startswith("/") else self.base_url
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity" if transport.is_loopback(base) else "gzip",
            "User-Agent": USER_AGENT,
            "Authorization": f"Bearer {self.session_id}",
            **request.headers,
        }
        return requests.Request(
            request.method, urljoin(base, request.path), headers=headers, params=request.params, data=request.data
        )

    def _broken(self, error: Exception, call: Call, request: _Request) -> Exception:
        """What a broken exchange means: a write that had begun to leave us is in doubt."""
        text = transport.trouble(error, call, self.host)
        code = "TIMEOUT" if call.deadline.passed() else "NO_ANSWER"
        if call.sent and not request.idempotent:
            return UnknownOutcomeError(text, code=code)
        if call.was_cut or call.deadline.passed():
            return TransientError(text, code=code)
        return _PassingError(TransientError(text, code=code))

    def _failure(self, response: requests.Response, content: bytes, request: _Request) -> Exception:
        """The exception of an answer that is no success."""
        body = _lenient(content)
        status = response.status_code
        found = complaints(body)
        if needs_renewal(status, found):
            return _ExpiredError(found[0].message if found else "401")
        said = advice(response.headers, self.org_time)
        error = error_for(status, body, write=not request.idempotent, retry_after=said)
        if 300 <= status < 400 and urlsplit(response.headers.get("Location", "")).netloc not in ("", self.host):
            return _MovedError(error)
        if isinstance(error, OverBudgetError):
            self.meter.refused(error)
        if status in RETRY_STATUSES and isinstance(error, TransientError) and not isinstance(error, OverBudgetError):
            return _PassingError(error)
        return error

    def _parse(self, content: bytes, request: _Request) -> Any:
        """JSON with exact numbers; an answer that is not whole is as good as none."""
        if not content.strip():
            return None
        try:
            return jsonlib.loads(content, parse_float=Decimal)
        except ValueError:
            text = f"the answer of {self.host} is no whole JSON"
            if not request.idempotent:
                raise UnknownOutcomeError(text, code="BROKEN_ANSWER") from None
            raise _PassingError(TransientError(text, code="BROKEN_ANSWER")) from None

    def _note(self, headers: Mapping[str, str]) -> Usage | None:
        """Keep what the headers say of the org's clock and allowance; the latter."""
        date = headers.get("Date")
        if date:
            try:
                self.org_time = parsedate_to_datetime(date).astimezone(UTC)
            except ValueError:
                pass
        usage = parse_usage(headers.get("Sforce-Limit-Info"), self.org_time)
        if usage is not None:
            self.usage = usage
        return usage

    def _adopt(self, token: AccessToken) -> None:
        """Use `token` from now on. The scheme is kept: the library knows https only."""
        place = origin(token.instance_url)
        if place is None or not allowed(token.instance_url, self.options.allowed_hosts):
            raise DisconnectedError(
                f"{blank(token.instance_url)} is not a Salesforce host and not listed in SALESFORCE_ALLOWED_HOSTS"
            )
        self._token = token
        self.session_id = token.value
        instance = origin_text(place)
        self.sf_instance = urlsplit(instance).netloc
        self._generate_headers()
        self.base_url = f"{instance}/services/data/v{self.sf_version}/"
        self.tooling_url = f"{self.base_url}tooling/"
        self.bulk2_url = f"{self.base_url}jobs/"
        self.apex_url = f"{instance}/services/apexrest/"
        self.oauth2_url = f"{instance}/services/oauth2/"

    def _call_salesforce(
        self, method: str, url: str, name: str = "", retries: int = 0, max_retries: int = 3, **kwargs: Any
    ) -> requests.Response:
        """The library's own way out (restful, query, describe, limits) goes through ours."""
        del name, retries, max_retries
        kwargs.pop("timeout", None)
        data, headers = kwargs.pop("data", None), kwargs.pop("headers", None)
        request = _Request(
            method,
            urlsplit(url)._replace(scheme="", netloc="").geturl(),
            kwargs.pop("params", None),
            dumps(kwargs.pop("json")) if "json" in kwargs else data.encode() if isinstance(data, str) else data,
            {"Content-Type": "application/json", **(headers or {})},
            idempotent=method in ("GET", "HEAD"),
        )
        if kwargs:
            raise TypeError(f"not supported here: {', '.join(kwargs)}")
        limit = Deadline.after(self.options.request_seconds)
        response, content = self._persist(request, limit, lambda: self._fetch(request, limit))
        response._content = content
        return response


def _lenient(content: bytes) -> Any:
    try:
        return jsonlib.loads(content)
    except ValueError:
        return None


def _is_failure(response: requests.Response) -> bool:
    return response.status_code >= 300 and response.status_code != 304
