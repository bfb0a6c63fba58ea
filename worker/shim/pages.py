"""Pages for people who come back from the org's login. Everything shown is escaped; nothing is loaded from elsewhere."""

import html
from string import Template

from fastapi.responses import HTMLResponse

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the code
}

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1d2733; --soft: #5a6675; --page: #f4f6f9; --card: #fff; --line: #dfe4ea; --mark: $mark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf3; --soft: #9fabb9; --page: #12171d; --card: #1b222b; --line: #2c3641; }
}
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--page); color: var(--ink);
  font: 17px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { box-sizing: border-box; width: min(32rem, 100vw - 2rem); margin: 1rem; padding: 2rem; background: var(--card);
  border: 1px solid var(--line); border-top: 4px solid var(--mark); border-radius: 10px; overflow-wrap: anywhere; }
h1 { margin: 0 0 .6rem; font-size: 1.45rem; line-height: 1.25; }
p { margin: 0 0 .8rem; }
p:last-child { margin: 0; color: var(--soft); }
</style>
</head>
<body><main role="$role"><h1>$title</h1><p>$text</p><p>$advice</p></main></body>
</html>
"""
)


def page(title: str, text: str, advice: str, *, good: bool, status: int) -> HTMLResponse:
    """One page with a heading, what happened, and what to do next."""
    words = {name: html.escape(value) for name, value in (("title", title), ("text", text), ("advice", advice))}
    body = PAGE.substitute(words, mark="#2e844a" if good else "#c23934", role="status" if good else "alert")
    return HTMLResponse(body, status, HEADERS)
