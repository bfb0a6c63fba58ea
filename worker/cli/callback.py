"""The local callback of `sfsync connect`: a small server on this machine that catches the org's answer and shows a page."""

import html
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from worker.errors import SettingsError, SyncError
from worker.log import blank
from worker.tokens.connect import Connected

DEFAULT_REDIRECT_URI = "http://localhost:1717/callback"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>sfsync</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222}}
h1{{font-size:1.4em}}</style><h1>{title}</h1><p>{text}</p></html>"""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the address holds the code
    "Cache-Control": "no-store",
    "Connection": "close",
}

Outcome = Connected | SyncError


class CallbackServer:
    """Listens on the redirect URI's port while the block lasts.

    `redirect_uri` empty: the default one. `any_port`: when the default's port is taken, another will do.
    `finish(state, code)` is called once, for the state that is expected; its result is what `wait` returns.
    """

    def __init__(self, redirect_uri: str, finish: Callable[[str, str], Connected], *, any_port: bool) -> None:
        parts = urlsplit(redirect_uri or DEFAULT_REDIRECT_URI)
        if parts.hostname not in LOOPBACK or parts.scheme != "http":
            raise SettingsError(
                f"SALESFORCE_REDIRECT_URI: {redirect_uri} is not on this machine, so its answer cannot be caught here; "
                "connect through the HTTP door, or register and set an address such as " + DEFAULT_REDIRECT_URI
            )
        self._finish = finish
        self._state = ""
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._outcome: Outcome | None = None
        self.path = parts.path or "/"
        self._server = self._listen(parts.port or 80, any_port=any_port and not redirect_uri)
        shown = "localhost" if parts.hostname == "localhost" else parts.netloc.rpartition(":")[0] or str(parts.hostname)
        self.redirect_uri = f"http://{shown}:{self._server.server_port}{parts.path}"

    def _listen(self, port: int, *, any_port: bool) -> ThreadingHTTPServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, title, text = server.answer(self.path)
                body = PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
                self.send_response(status)
                for name, value in {**HEADERS, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                finally:
                    server.page_sent()

            def log_message(self, *_args: Any) -> None:  # the address holds the code
                pass

        for choice in (port, 0) if any_port else (port,):
            try:
                return _Server(("127.0.0.1", choice), Handler)
            except OSError:
                continue
        raise SettingsError(
            f"port {port} is in use, so the browser's answer cannot be caught; "
            "set SALESFORCE_REDIRECT_URI to a registered address on another port"
        )

    def __enter__(self) -> "CallbackServer":
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def expect(self, state: str) -> None:
        """From now on an answer with this state is ours."""
        self._state = state

    def wait(self, until: float) -> Outcome | None:
        """The outcome; None when none came by `until` (monotonic seconds)."""
        while not self._done.wait(0.5):
            if time.monotonic() > until:
                return None
        return self._outcome

    def answer(self, target: str) -> tuple[int, str, str]:
        """Status, title and text of the page for one request."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path != self.path:
            return 404, "Nothing here", "This address belongs to sfsync connect."
        with self._lock:
            if self._outcome is not None:
                return 400, "Already answered", "This sign-in is over. You can close this page."
            if not self._state or query.get("state") != self._state:
                return 400, "Not this sign-in", "The answer does not belong to the sign-in that sfsync began."
            return self._settle(query)

    def page_sent(self) -> None:
        """A page has left: the command may end once the one that tells the outcome has."""
        if self._outcome is not None:
            self._done.set()

    def _settle(self, query: dict[str, str]) -> tuple[int, str, str]:
        try:
            outcome: Outcome = self._finish(query["state"], query["code"]) if "code" in query else _denied(query)
        except SyncError as error:
            outcome = error
        except Exception as error:  # the page and the waiting command must both learn of it
            outcome = SyncError(f"storing the grant failed ({type(error).__name__})")
        self._outcome = outcome
        if isinstance(outcome, SyncError):
            return 400, "Not connected", blank(str(outcome))
        return 200, "Connected", f"{outcome.username or outcome.user_id} is connected. You can close this page."


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False
    address_family = socket.AF_INET


def _denied(query: dict[str, str]) -> SyncError:
    reason = query.get("error_description") or query.get("error") or "no code came back"
    return SyncError(f"the org did not grant access: {blank(reason)[:300]}")
