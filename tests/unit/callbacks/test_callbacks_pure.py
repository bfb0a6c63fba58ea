"""The pure parts of callbacks: which addresses, which URLs, signatures that an independent verifier accepts, pauses."""

import base64
import json
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from worker.callbacks.addresses import is_public, target
from worker.callbacks.calling import Answer
from worker.callbacks.deliver import pause_of
from worker.callbacks.signing import headers, key_of, secret_of

FAILED = Answer(500, "it answered 500", 0.1)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:a9fe:a9fe",
        "::7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "nonsense",
    ],
)
def test_an_address_that_is_not_of_the_open_internet_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_pass(address: str) -> None:
    assert is_public(address)


def test_http_and_private_hosts_are_for_the_operator_to_allow() -> None:
    assert target("https://caller.example/a?b=c", ()).path == "/a?b=c"
    with pytest.raises(ValueError, match="https"):
        target("http://caller.example/", ())
    allowed = ("http://caller.internal:8080",)
    assert target("http://caller.internal:8080/x", allowed).trusted
    with pytest.raises(ValueError, match="https"):
        target("http://caller.internal:8081/x", allowed)
    assert not target("https://caller.internal:8080/x", allowed).trusted


def test_either_secret_verifies_while_two_are_exchanged() -> None:
    old, new = secret_of(b"o" * 32), secret_of(b"n" * 32)
    body = json.dumps({"type": "action.finished", "data": {"id": "x"}}).encode()
    sent = headers("msg_1", int(time.time()), body, [key_of(new), key_of(old)])
    for secret in (old, new):
        assert Webhook(secret).verify(body, sent) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of(b"x" * 32)).verify(body, sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body + b" ", sent)


@pytest.mark.parametrize("wrong", ["", "whsec_", "whsec_!!", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_short_or_broken_secret_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        key_of(wrong)


def test_pauses_grow_to_an_hour_and_heed_the_receiver() -> None:
    assert [pause_of(n, FAILED, 0.5).total_seconds() for n in (1, 2, 3, 11, 99)] == [5, 10, 20, 3600, 3600]
    assert pause_of(1, Answer(429, "it answered 429", 0.1, retry_after=120.0), 0.5).total_seconds() == 120
    assert pause_of(1, Answer(429, "it answered 429", 0.1, retry_after=1e9), 0.5).total_seconds() == 3600
