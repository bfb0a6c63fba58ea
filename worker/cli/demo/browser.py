"""A person's part of signing in, played by a few lines: pages with a form that is filled in and sent."""

import html.parser
from urllib.parse import urljoin

import requests

from worker.cli.demo.story import Demo


def sign_in(demo: Demo, url: str) -> None:
    """What a person does: open the page, fill in the form, approve; as many pages as the org shows."""
    with requests.Session() as browser:
        browser.trust_env = False  # REQUESTS_CA_BUNDLE would win over the org's own certificate
        browser.verify = demo.org["ca_file"] or True
        page = browser.get(url, timeout=60)
        for _ in range(3):
            form = Form(page.text)
            if form.action is None:
                return
            form.values |= {"username": demo.org["username"], "password": demo.org["password"]}
            page = browser.post(urljoin(page.url, form.action), data=form.values, timeout=60)


class Form(html.parser.HTMLParser):
    """The first form of a page: where it goes, and its fields as they stand (of its buttons, the first)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self._pressed = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect inputs and the first button that has a name."""
        known = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = known.get("action", "")
        elif tag == "input" and known.get("name") and known.get("type") != "submit":
            self.values[known["name"]] = known.get("value", "")
        elif tag in ("button", "input") and known.get("name") and not self._pressed:
            self.values[known["name"]] = known.get("value", "")
            self._pressed = True
