"""The status page in a real browser: a run is seen to finish, a held action is retried, an account is connected.

Needs Chromium and its driver (Debian: chromium, chromium-driver) and SFSYNC_TEST_BROWSER=1; skipped otherwise.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from tests.acceptance.stack import Stack, start_stack
from tests.acceptance.test_writes import Caller
from tests.waiting import until
from worker.local_servers import EmbeddedValkey, free_port

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif("SFSYNC_TEST_BROWSER" not in os.environ, reason="a real browser: set SFSYNC_TEST_BROWSER=1"),
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no Chromium with its driver (Debian: chromium, chromium-driver)"
    ),
]

PHONE, DESK = (390, 844), (1360, 900)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-quic --ignore-certificate-errors"
)


@pytest.fixture
def stack(tmp_path: Path, database_url: str, valkey: EmbeddedValkey) -> Iterator[Stack]:
    with start_stack(tmp_path, database_url, valkey.url, seed="Account=5,Contact=3000,Opportunity=20") as stack:
        stack.env["SFSYNC_SHIM_PORT"] = str(free_port())
        stack.env["SFSYNC_REFRESH_SECONDS"] = "2"
        stack.connect("tester")
        for service in ("actions", "refresh", "backfill"):
            stack.start("worker", service)
        stack.start("shim")
        until(Caller(stack, int(stack.env["SFSYNC_SHIM_PORT"])).is_up)
        yield stack


@pytest.fixture
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        driver.set_window_size(*DESK)
        yield driver
        driver.quit()


def sign_in(stack: Stack, browser: WebDriver) -> None:
    key = stack.sfsync_json("api-keys", "create", "--name", "me", "--scope", "admin")["key"]
    browser.get(f"http://localhost:{stack.env['SFSYNC_SHIM_PORT']}/")
    field = browser.find_element(By.ID, "key")
    field.send_keys(key, Keys.RETURN)
    until(lambda: browser.find_elements(By.ID, "mirrors"))


def text_of(browser: WebDriver, part: str) -> str:
    """What a part of the page says now; the page may be putting a new one in place."""
    found: str = browser.execute_script(  # type: ignore[no-untyped-call]
        "const part = document.getElementById(arguments[0]); return part ? part.innerText : ''", part
    )
    return found


def keep(browser: WebDriver, name: str) -> None:
    """A picture for people, where a folder for it is named."""
    folder = os.environ.get("SFSYNC_SCREENSHOTS")
    if folder:
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_a_person_sees_a_run_finish_retries_an_action_and_connects_an_account(stack: Stack, browser: WebDriver) -> None:
    sign_in(stack, browser)

    # a run is seen to finish, without a reload
    browser.execute_script("window.sameDocument = true")  # type: ignore[no-untyped-call]
    stack.sfsync("mirror", "--user-id", "tester", "--object", "Contact")
    until(lambda: "Contact" in text_of(browser, "mirrors") and "live" in text_of(browser, "mirrors"))
    until(lambda: "3,000" in text_of(browser, "runs") and "done" in text_of(browser, "runs"))
    assert browser.execute_script("return window.sameDocument") is True  # type: ignore[no-untyped-call]

    # an action that the org refuses is shown with its words, and sent again by its button
    contact = stack.rows("SELECT id FROM salesforce.contact ORDER BY id LIMIT 1")[0][0]
    caller = Caller(stack, int(stack.env["SFSYNC_SHIM_PORT"]))
    status, answer = caller.call("PATCH", f"contacts/{contact}", json={"user_id": "tester", "ReportsToId": contact})
    assert status == 422, answer
    until(lambda: "Retry" in text_of(browser, "failing"))
    keep(browser, "failing")
    button = browser.find_element(By.CSS_SELECTOR, "#failing button[value=retry]")
    browser.execute_script("arguments[0].click()", button)  # type: ignore[no-untyped-call]
    attempts = "SELECT count(*) FROM sfsync.action_attempts t JOIN sfsync.actions a ON a.id = t.action_id WHERE t.way = 'person'"
    until(lambda: stack.rows(attempts)[0][0] == 1)

    # an account is connected through the org's own login
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#connect input[name=user_id]"))
    browser.find_element(By.CSS_SELECTOR, "#connect input[name=user_id]").send_keys("second", Keys.RETURN)
    until(lambda: browser.find_elements(By.NAME, "username"))
    assert urlsplit(browser.current_url).netloc == urlsplit(stack.org.url).netloc
    browser.find_element(By.NAME, "username").send_keys(stack.org.username)
    browser.find_element(By.NAME, "password").send_keys(stack.org.password)
    browser.find_element(By.CSS_SELECTOR, "button[value=allow]").click()
    until(lambda: "is connected" in browser.title)
    assert stack.rows("SELECT state FROM salesforce_oauth_tokens WHERE user_id = 'second'") == [("active",)]


@pytest.mark.parametrize("size", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_any_width_in_light_and_dark(
    stack: Stack, browser: WebDriver, size: tuple[int, int], scheme: str
) -> None:
    stack.sfsync("mirror", "--user-id", "tester")
    browser.execute_cdp_cmd(  # type: ignore[attr-defined]
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size is PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[attr-defined]
    sign_in(stack, browser)
    until(lambda: "live" in text_of(browser, "mirrors"))
    keep(browser, f"status-{size[0]}-{scheme}")
    wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wider) <= 0  # type: ignore[no-untyped-call]
    problems = [line["message"] for line in browser.get_log("browser")]  # type: ignore[attr-defined]
    assert problems == []
