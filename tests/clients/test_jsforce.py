"""jsforce 3, unchanged."""

import json
from pathlib import Path

EXPECTED = {
    "login": True,
    "identity": "admin@local-org.example",
    "limits": True,
    "describeGlobal": True,
    "describe": True,
    "query": 3,
    "autoFetch": 5000,
    "find": 2,
    "children": 2,
    "count": True,
    "create": True,
    "retrieve": "jsforce one",
    "update": True,
    "createMany": [True, False],
    "createManyRecursive": 450,
    "upsert": True,
    "upsertMany": [False, True],
    "updated": True,
    "destroy": True,
    "deleted": True,
    "scanAll": 1,
    "queryError": "INVALID_FIELD",
    "bulk2Query": 5000,
    "bulk2Insert": [2, 1, 0],
    "bulk1Insert": [True, True],
    "bulk1Query": 5000,
    "composite": [201, 200],
    "expiredIsRefreshed": 1,
}


def test_jsforce_does_all_that_programs_do_with_it(plain_org, jsforce_folder, node, command) -> None:
    env = {
        "JSFORCE_FOLDER": str(jsforce_folder),
        "ORG_URL": plain_org.url,
        "CLIENT_ID": plain_org.client_id,
        "CLIENT_SECRET": plain_org.client_secret,
        "ORG_USERNAME": plain_org.username,
        "ORG_PASSWORD": plain_org.password,
    }
    script = Path(__file__).with_name("jsforce_check.mjs")
    assert json.loads(command([node(jsforce_folder), str(script)], env)) == EXPECTED
