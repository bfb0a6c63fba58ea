"""What the product imports comes with it: tests have more at hand than an installation without the extra `dev`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Everything of ours, and what Celery, Flower and uvicorn load by name, while what came with `dev` alone is hidden.
IMPORT_ALL = """
import json, pkgutil, sys
from importlib import import_module

class Hidden:
    names = frozenset(json.loads(sys.argv[1]))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import beat_schedule, local_org, models, tasks, worker
for package in (worker, tasks, models, local_org):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith((".__main__", ".env")) and ".versions." not in module.name:
            import_module(module.name)
for name in ("kombu.transport.redis", "celery.beat", "celery.concurrency.thread", "flower.command", "uvloop", "httptools"):
    import_module(name)
"""


def required(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Names of the distributions that come with this one and these extras of it."""
    yield canonicalize_name(name)
    for one in map(Requirement, requires(name) or ()):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            wanted = {(one.name, extra) for extra in one.extras | {""}} - seen
            if wanted:
                seen |= wanted
                yield from required(one.name, frozenset(one.extras), seen)


def test_what_is_imported_is_installed_with_it() -> None:
    brought = set(required("sfsync", frozenset({"embedded", "org"}), set()))
    homes = packages_distributions().items()
    hidden = [module for module, of in homes if not brought & {canonicalize_name(one) for one in of}]
    assert {"pytest", "hypothesis"} <= set(hidden)
    subprocess.run([sys.executable, "-c", IMPORT_ALL, json.dumps(hidden)], check=True)
