"""The status page in a real browser: a run is seen to finish, a held action is retried, an account is connected.

Needs Chromium and its driver (Debian: chromium, chromium-driver); skipped only where there is none.
"""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from tests.acceptance.stack import Stack, start_stack
from tests.conftest import new_database
from tests.waiting import until
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey, free_port

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no Chromium with its driver (Debian: chromium, chromium-driver)"
    ),
]

PHONE, DESK = (390, 844), (1280, 900)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-quic --disable-extensions"
)
USER = "tester"


@pytest.fixture(scope="module")
def stack(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("status")
    seed = "Account=5,Contact=300"
    with new_database(postgres) as url, start_stack(folder, url, valkey.url, seed=seed) as stack:
        stack.env |= {
            "SFSYNC_SHIM_PORT": str(free_port()),
            "SFSYNC_REFRESH_SECONDS": "2",
            "SFSYNC_IDEMPOTENCY_KEYS": "false",  # else an unanswered create is never in doubt
            "SFSYNC_SETTLING_SECONDS": "4",  # after so long it can no longer land
        }
        stack.start("shim")
        stack.connect(USER)
        for service in ("actions", "refresh", "backfill"):
            stack.start("worker", service)
        yield stack


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return str(stack.sfsync_json("api-keys", "create", "--name", "me", "--scope", "admin")["key"])


@pytest.fixture(scope="module")
def browser(stack: Stack, key: str) -> Iterator[WebDriver]:
    """A browser in which the admin is signed in."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            until(lambda: is_up(stack))
            driver.get(home(stack))
            look_at_every_width(driver, "sign-in")
            driver.find_element(By.ID, "key").send_keys(key, Keys.RETURN)
            until(lambda: driver.find_elements(By.ID, "mirrors"))
            yield driver
        finally:
            driver.quit()


def home(stack: Stack) -> str:
    return f"http://localhost:{stack.env['SFSYNC_SHIM_PORT']}/"


def is_up(stack: Stack) -> bool:
    try:
        return requests.get(f"{home(stack)}readyz", timeout=5).ok
    except requests.ConnectionError:
        return False


def text_of(browser: WebDriver, part: str) -> str:
    """The text of a part as it is now; empty where there is none, or while the page puts a new one there."""
    try:
        return browser.find_element(By.ID, part).text
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def look_at_every_width(browser: WebDriver, name: str) -> None:
    """Nothing is cut off at phone and desk width, in light and dark, and the browser complains of nothing.

    With SFSYNC_SCREENSHOTS=folder the pictures are kept, for people.
    """
    folder = os.environ.get("SFSYNC_SCREENSHOTS")
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})  # type: ignore[attr-defined]
        for width, height in (PHONE, DESK):
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE[0]}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[attr-defined]
            if folder:
                whole = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})  # type: ignore[attr-defined]
                Path(folder, f"{name}-{width}-{scheme}.png").write_bytes(base64.b64decode(whole["data"]))
            wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert browser.execute_script(wider) <= 0, (name, width, scheme)  # type: ignore[no-untyped-call]
    assert browser.get_log("browser") == [], name  # type: ignore[attr-defined]


def test_a_person_sees_a_run_finish_retries_a_held_action_and_connects_an_account(
    stack: Stack, browser: WebDriver, key: str
) -> None:
    look_at_every_width(browser, "empty")

    # a run is seen to finish, without a reload
    browser.execute_script("window.sameDocument = true")  # type: ignore[no-untyped-call]
    stack.sfsync("mirror", "--user-id", USER, "--object", "Contact", "--object", "Account")
    until(lambda: "live" in text_of(browser, "mirrors"))
    until(lambda: "300" in text_of(browser, "runs") and "done" in text_of(browser, "runs"))
    assert browser.execute_script("return window.sameDocument") is True  # type: ignore[no-untyped-call]

    # an action is held, because a record of ours may be what it made: its button sends it again
    hold_a_create(stack, key)
    until(lambda: "Retry" in text_of(browser, "failing"))
    assert "IN_DOUBT" in text_of(browser, "failing")
    look_at_every_width(browser, "full")
    press(browser, "#failing button[value=retry]")
    until(lambda: not text_of(browser, "failing"))
    state = "SELECT state = 'delivered' FROM sfsync.actions WHERE object = 'Campaign'"
    stack.wait_for(state)
    assert browser.execute_script("return window.sameDocument") is None  # type: ignore[no-untyped-call]

    # an account is connected through the org's own login
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#connect input[name=user_id]"))
    browser.find_element(By.CSS_SELECTOR, "#connect input[name=user_id]").send_keys("second", Keys.RETURN)
    until(lambda: browser.find_elements(By.NAME, "username"))
    assert urlsplit(browser.current_url).netloc == urlsplit(stack.org.url).netloc
    browser.find_element(By.NAME, "username").send_keys(stack.org.username)
    browser.find_element(By.NAME, "password").send_keys(stack.org.password)
    press(browser, "button[value=allow]")
    until(lambda: "is connected" in browser.title)
    assert stack.rows("SELECT state FROM salesforce_oauth_tokens WHERE user_id = 'second'") == [("active",)]
    browser.get_log("browser")  # type: ignore[attr-defined]  # the org has no icon
    look_at_every_width(browser, "connected")


def press(browser: WebDriver, selector: str) -> None:
    """As a click, whether or not the button is in sight."""
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)  # type: ignore[no-untyped-call]


def hold_a_create(stack: Stack, key: str) -> None:
    """A create without a key whose request is cut off, and a like record of the same user that could be what it made."""
    match = {"path_regex": "composite/sobjects"}
    stack.org.control.add_fault(match=match, action={"cut": "before"})
    headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=0"}
    url = f"{home(stack)}api/salesforce/objects/Campaign"
    body = {"user_id": USER, "Name": "Spring"}
    assert requests.post(url, json=body, headers=headers, timeout=60).status_code == 202
    stack.wait_for("SELECT state = 'in_doubt' FROM sfsync.actions WHERE object = 'Campaign'")
    token = {"Authorization": f"Bearer {stack.org.token()}"}
    campaigns = f"{stack.org.url}/services/data/v62.0/sobjects/Campaign"
    assert requests.post(campaigns, json={"Name": "Spring (1)"}, headers=token, timeout=60).status_code == 201
