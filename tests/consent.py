"""A person at the local org's pages: logs in, grants access or denies it."""

import html
import re
from urllib.parse import urljoin

import requests

from tests.org import Org


def sign_in(org: Org, url: str, *, approve: bool, browser: requests.Session | None = None) -> requests.Response:
    """What a person does in the browser: log in, then approve or deny. The last page."""
    with browser or requests.Session() as browser:
        page = browser.get(url, timeout=30)
        for _ in range(3):
            form = re.search(r"<form[^>]*>.*?</form>", page.text, re.S)
            if form is None:
                return page
            action = re.search(r'action="([^"]*)"', form.group())
            fields = dict(re.findall(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', form.group()))
            values = {name: html.unescape(value) for name, value in fields.items()}
            values |= {"username": org.username, "password": org.password}
            buttons = re.findall(r'<button[^>]*name="([^"]*)"[^>]*value="([^"]*)"', form.group())
            if buttons:
                name, value = buttons[0 if approve else -1]
                values[name] = value
            page = browser.post(
                urljoin(page.url, html.unescape(action.group(1)) if action else ""), data=values, timeout=30
            )
        return page
