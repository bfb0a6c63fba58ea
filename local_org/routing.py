"""Which handler answers a path of the data API. Names in paths match in any case; a closing slash is welcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from local_org.errors import not_found, wrong_method

Handler = Callable[..., Any]


@dataclass(slots=True)
class _Node:
    words: dict[str, "_Node"] = field(default_factory=dict)
    param: "_Node | None" = None
    names: tuple[str, ...] = ()
    handlers: dict[str, Handler] = field(default_factory=dict)


class Router:
    """Paths such as "sobjects/{object_name}/describe", each with handlers by method."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, pattern: str, **handlers: Handler) -> None:
        node = self._root
        names: list[str] = []
        for segment in pattern.split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.param = node.param or _Node()
                node = node.param
            else:
                node = node.words.setdefault(segment.lower(), _Node())
        node.names = tuple(names)
        node.handlers |= handlers

    def find(self, method: str, raw_path: str) -> tuple[Handler, dict[str, str]]:
        """The handler and its path parameters. `raw_path` is percent-encoded. Raises ApiError 404, 405."""
        segments = [unquote(part) for part in raw_path.strip("/").split("/")]
        found = _walk(self._root, segments, ())
        if found is None:
            raise not_found()
        node, values = found
        wanted = "GET" if method == "HEAD" else method
        if wanted not in node.handlers:
            extra = ["HEAD"] if "GET" in node.handlers else []
            raise wrong_method(method, [*node.handlers, *extra])
        return node.handlers[wanted], dict(zip(node.names, values, strict=True))


def _walk(node: _Node, segments: list[str], values: tuple[str, ...]) -> tuple[_Node, tuple[str, ...]] | None:
    """Words before parameters; back to the parameter where the word leads nowhere."""
    if not segments:
        return (node, values) if node.handlers else None
    head, rest = segments[0], segments[1:]
    word = node.words.get(head.lower())
    found = _walk(word, rest, values) if word is not None else None
    if found is None and node.param is not None:
        found = _walk(node.param, rest, (*values, head))
    return found
