"""An HTTPS CONNECT proxy for clients whose hosts are fixed: what they send to the vendor's hosts goes to the org.

Set HTTPS_PROXY to its URL and let the client trust the org's CA. Other hosts are refused: nothing leaves the machine.
"""

import asyncio
import re
import socket
from contextlib import suppress

# Names that the org's certificate must carry.
_PARTITIONS = ("sandbox", "develop", "scratch", "trailblaze")
HOSTS = (
    "login.salesforce.com",
    "test.salesforce.com",
    "*.my.salesforce.com",
    *(f"*.{name}.my.salesforce.com" for name in _PARTITIONS),
)

_ALLOWED = re.compile(
    rf"(?:login|test)\.salesforce\.com|[\w-]+(?:\.(?:{'|'.join(_PARTITIONS)}))?\.my\.salesforce\.com", re.IGNORECASE
)
_REQUEST = re.compile(rb"CONNECT ([\w.-]+):443 HTTP/1\.[01]\r\n")
_MAX_HEAD_BYTES = 16_384
_CHUNK_BYTES = 1 << 16


class Proxy:
    """Tunnels CONNECT requests for the vendor's hosts to one local port, where TLS is spoken."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = target_host, target_port
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Answer at a bound socket."""
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_MAX_HEAD_BYTES)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            host = _host(await reader.readuntil(b"\r\n\r\n"))
            if host is None:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
            else:
                await self._tunnel(reader, writer)
        await _close(writer)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        org_reader, org_writer = await asyncio.open_connection(*self._target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        there = asyncio.ensure_future(_copy(reader, org_writer))
        back = asyncio.ensure_future(_copy(org_reader, writer))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _close(org_writer)
            await _close(writer)
            await asyncio.gather(there, back, return_exceptions=True)


def _host(head: bytes) -> str | None:
    """The host that a CONNECT request names, None for anything that is not to be let through."""
    match = _REQUEST.match(head)
    host = match[1].decode() if match else ""
    return host if _ALLOWED.fullmatch(host) else None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()
