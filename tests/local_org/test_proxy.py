"""The proxy lets through what is meant for the vendor's hosts, and leads it to the org."""

import asyncio
import socket
from typing import Any

import pytest

from local_org.proxy import Proxy


def talk(request: bytes, then: bytes = b"") -> tuple[bytes, bytes]:
    """What the proxy answers, and what comes through the tunnel after `then` is sent."""

    async def echo(reader: Any, writer: Any) -> None:
        writer.write(b"org:" + await reader.read(100))
        writer.close()

    async def scene() -> tuple[bytes, bytes]:
        org = await asyncio.start_server(echo, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", org.sockets[0].getsockname()[1])
        listener = socket.create_server(("127.0.0.1", 0))
        await proxy.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(then)
        rest = await reader.read() if then else b""
        writer.close()
        await proxy.stop()
        org.close()
        return head, rest

    return asyncio.run(asyncio.wait_for(scene(), 20))


@pytest.mark.parametrize("host", ["login.salesforce.com", "test.salesforce.com", "acme.my.salesforce.com"])
def test_the_vendors_hosts_lead_to_the_org(host: str) -> None:
    head, rest = talk(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode(), b"hello")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert rest == b"org:hello"


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT example.com:443 HTTP/1.1",
        "CONNECT login.salesforce.com:80 HTTP/1.1",
        "CONNECT login.salesforce.com.example.com:443 HTTP/1.1",
        "GET http://login.salesforce.com/ HTTP/1.1",
    ],
)
def test_nothing_else_is_let_through(request_line: str) -> None:
    head, _ = talk(f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert head.startswith(b"HTTP/1.1 403 ")
