"""A local org heard through a proxy that answers as lawfully and otherwise: what the vendor leaves open is not to be leaned on.

Header names in lower case; gzip and chunks whatever was asked for; short query pages whose next URL names another host and
version; describes in another order, with keys that nobody knows and without those of no meaning; token answers of the least
that a client may count on; Bulk results with a byte order mark, CRLF and their columns backwards; ingest jobs that do not count.
"""

import csv
import gzip
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from tests.org import Org

OURS = {"content-length", "transfer-encoding", "connection", "content-encoding", "date", "server"}
UNSAID = {
    "/token": ("signature", "scope", "token_type", "issued_at"),
    "/jobs/query/": ("retries", "totalProcessingTime", "apiActiveProcessingTime"),
    "/jobs/ingest/": ("numberRecordsProcessed", "numberRecordsFailed", "retries", "apexProcessingTime"),
}
PIECE = 700


@contextmanager
def in_dialect(org: Org) -> Iterator[Org]:
    """The same org under another URL; its control path is the old one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
            if "/query" in self.path:
                sent.setdefault("Sforce-Query-Options", "batchSize=200")
            found = requests.request(
                self.command, org.url + self.path, headers=sent, data=body, allow_redirects=False, timeout=60
            )
            self._say(found, _translated(self.command, self.path, found))

        def _say(self, found: requests.Response, content: bytes) -> None:
            self.send_response(found.status_code)
            for name, value in found.headers.items():
                if name.lower() not in OURS:
                    self.send_header(name.lower(), value)
            self.send_header("set-cookie", "BrowserId=none; path=/")
            if found.status_code in (204, 304):
                self.end_headers()
                return
            self.send_header("content-encoding", "gzip")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            packed = gzip.compress(content)
            for start in range(0, len(packed), PIECE):
                piece = packed[start : start + PIECE]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    heard = replace(org, url=f"http://127.0.0.1:{server.server_port}")
    heard.__dict__["control"] = org.control
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()


def _translated(method: str, path: str, found: requests.Response) -> bytes:
    kind = found.headers.get("Content-Type", "")
    if not found.content.strip():
        return found.content
    if "json" in kind:
        return json.dumps(_json(path.split("?")[0], found.json())).encode()
    return _csv(found.content) if "csv" in kind and method == "GET" else found.content


def _json(path: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for place, names in UNSAID.items():
        if place in path:
            value = {name: one for name, one in value.items() if name not in names}
    if value.get("nextRecordsUrl"):
        value["nextRecordsUrl"] = (
            f"https://acme.my.salesforce.com{value['nextRecordsUrl'].replace('/v62.0/', '/v68.0/')}"
        )
    if path.endswith("/describe"):
        fields = [
            {
                name: one
                for name, one in field.items()
                if one not in (None, 0, False) or name in ("nillable", "sortable")
            }
            for field in value["fields"]
        ]
        value |= {"fields": fields[::-1], "ofTomorrow": {"any": ["thing"]}}
    return value


def _csv(content: bytes) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    for row in csv.reader(io.StringIO(content.decode(), newline="")):
        writer.writerow(row[::-1])
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()
