"""Data from numbers: the n-th record of an object is the same in every org that was seeded, whatever its size.

Stamps lie in the past and many records share one, as after a mass update.
"""

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from local_org.catalogue import ObjectType
from local_org.derive import derive
from local_org.dml import default_of
from local_org.ids import numbered
from local_org.objects.sales import FORECASTS, LEAD_STATUSES, STAGES
from local_org.org import DEFAULT_USERNAME, Org
from local_org.schema import create_indexes, quoted

Row = dict[str, Any]
Progress = Callable[[str, int], None]

BLOCK = 5_000
START_MS = 1_640_995_200_000  # 2022-01-01T00:00:00Z: the first record's creation
SPAN_SECONDS = 60_000_000  # creation is spread over about 1.9 years, changes over as much again
TIE_SECONDS = 900  # changes share stamps
USERS = 10
DEFAULT_COUNTS = {"Account": 500, "Contact": 4_000, "Opportunity": 1_200, "Lead": 500}
ORDER = ("Account", "Contact", "Opportunity", "Lead")  # parents first

FIRST = ("Ada", "Björn", "Chloé", "Dmitri", "Esperanza", "Femi", "Grace", "Hana", "Ivo", "Jürgen", "Keiko", "Łukasz")
LAST = ("Abel", "Ben-Ari", "Castro", "O'Neill", "Müller", "Novák", "Okafor", "Øster", "Pérez", "Quist", "Sato", "Žižek")
CITIES = (
    ("Berlin", "Germany"),
    ("Lyon", "France"),
    ("Osaka", "Japan"),
    ("Oslo", "Norway"),
    ("Austin", "United States"),
)
WORDS = ("Alpine", "Borealis", "Cobalt", "Delta", "Ember", "Fjord", "Granite", "Harbor", "Iris", "Juniper")
KINDS = ("Systems", "Foods", "Logistics", "Labs", "Energy", "Media", "Tools")
TITLES = ("Buyer", "CFO", "Engineer", "Head of Sales", "Owner", 'Director, "Special" Projects', None)
INDUSTRIES = ("Banking", "Biotechnology", "Energy", "Media", "Retail", "Technology", None)
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other", None)
NOTES = (None, None, "First line\nsecond line", 'Said: "maybe, next year"', "Ünïcödé 😀 and a comma, here", "#N/A")


def mix(number: int, salt: int) -> int:
    """A number below 2**32 that looks random and is always the same."""
    value = (number * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF
    value ^= value >> 15
    value = value * 0x2C1B3C6D & 0xFFFFFFFF
    return value ^ value >> 13


def parse_counts(text: str) -> dict[str, int]:
    """ "Contact=40000,Account=500" or a plain number (that many contacts with a tenth of accounts). Raises ValueError."""
    if text.strip().isdigit():
        total = int(text)
        return {"Account": max(1, total // 10), "Contact": total, "Opportunity": total // 4, "Lead": total // 10}
    counts = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, count = part.partition("=")
        if not equals or not count.strip().isdigit():
            raise ValueError(f"{part!r} is not OBJECT=COUNT")
        counts[name.strip()] = int(count)
    return counts


def user_id(number: int) -> str:
    """The number-th user: 0 is the administrator."""
    return numbered("005", number)


def seed_basics(org: Org, *, users: int = USERS) -> None:
    """The organization, its profile and `users` users, where they are missing; 0 users: they will be imported."""
    with org.store.read() as conn:
        if conn.execute('SELECT 1 FROM "Organization"').fetchone():
            return
    _write(org, "Profile", iter([_dated({"Id": numbered("00e", 0), "Name": "System Administrator"})]))
    _write(org, "User", (_user(number) for number in range(users)))
    name = {"Id": org.organization_id, "Name": "Local Org", "OrganizationType": "Developer Edition"}
    more = {"InstanceName": "LO1", "FiscalYearStartMonth": 1, "LanguageLocaleKey": "en_US", "TimeZoneSidKey": "GMT"}
    _write(org, "Organization", iter([_dated(name | more | {"DefaultLocaleSidKey": "en_US"})]))
    _write(org, "OpportunityStage", (_stage(n, label) for n, label in enumerate(STAGES)))
    _write(org, "LeadStatus", (_lead_status(n, label) for n, label in enumerate(LEAD_STATUSES)))


def _dated(row: Row) -> Row:
    return row | dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), START_MS)


def _stage(number: int, label: str) -> Row:
    probability, forecast, closed, won = STAGES[label]
    values = {
        "Id": numbered("01J", number),
        "MasterLabel": label,
        "ApiName": label,
        "IsActive": 1,
        "SortOrder": number + 1,
        "IsClosed": int(closed),
        "IsWon": int(won),
        "ForecastCategory": FORECASTS[forecast],
        "ForecastCategoryName": forecast,
        "DefaultProbability": probability,
    }
    return _dated(values)


def _lead_status(number: int, label: str) -> Row:
    values = {"Id": numbered("01K", number), "MasterLabel": label, "ApiName": label, "SortOrder": number + 1}
    return _dated(values | {"IsDefault": int(number == 0), "IsConverted": int(label == "Closed - Converted")})


def seed(org: Org, counts: dict[str, int], progress: Progress = lambda _name, _done: None) -> None:
    """Bring each object up to its count; records that are there stay. Raises ValueError for an object without a maker."""
    unknown = sorted(set(counts) - set(ORDER))
    if unknown:
        raise ValueError(f"cannot make {', '.join(unknown)}: choose from {', '.join(ORDER)}")
    for name in ORDER:
        wanted = counts.get(name, 0)
        have = _counter(org, name)
        if wanted > have:
            accounts = max(counts.get("Account", 0), _counter(org, "Account"))
            rows = (MAKERS[name](number, accounts) for number in range(have, wanted))
            _write(org, name, rows, progress, wanted)


def create(org: Org, name: str, count: int) -> list[str]:
    """`count` more records, stamped now; their ids. Raises ValueError for an object without a maker."""
    if name not in MAKERS:
        raise ValueError(f"cannot make {name}: choose from {', '.join(ORDER)}")
    first, accounts = _counter(org, name), _counter(org, "Account")
    now = org.store.clock.now_ms()
    stamps = dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), now)
    rows = (MAKERS[name](number, accounts) | stamps for number in range(first, first + count))
    _write(org, name, rows)
    item = org.store.catalogue.object(name)
    assert item is not None
    return [numbered(item.key_prefix, number) for number in range(first, first + count)]


def _counter(org: Org, name: str) -> int:
    item = org.store.catalogue.object(name)
    assert item is not None
    with org.store.read() as conn:
        row = conn.execute("SELECT next FROM _counters WHERE prefix = ?", (item.key_prefix,)).fetchone()
    return int(row[0]) - 1 if row else 0


def _write(
    org: Org, name: str, rows: Iterator[Row], progress: Progress = lambda _n, _d: None, total: int | None = None
) -> None:
    """Insert rows in blocks; a large load gets its indexes afterwards."""
    item = org.store.catalogue.object(name)
    assert item is not None
    indexes = total is not None and total > 4 * BLOCK
    base = _base(item)
    done = 0
    with org.store.write() as conn:
        if indexes:
            for index in _index_names(conn, name):
                conn.execute(f"DROP INDEX {quoted(index)}")
        while block := list(islice(rows, BLOCK)):
            _insert(conn, item, [_complete(item, base, row) for row in block])
            done += len(block)
            progress(name, done)
        org.store.reserve(conn, item.key_prefix, done)
        if indexes:
            for sql in create_indexes(item):
                conn.execute(sql)


def _index_names(conn: Any, name: str) -> list[str]:
    rows = conn.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (name,)
    )
    return [row[0] for row in rows.fetchall()]


def _base(item: ObjectType) -> Row:
    """What every record has: defaults and owners. Columns that are null in all of them are left out."""
    defaults = {field.name: default_of(field) for field in item.stored}
    people = dict.fromkeys(("OwnerId", "CreatedById", "LastModifiedById"), user_id(0))
    return {name: value for name, value in (defaults | people).items() if value is not None and name in defaults}


def _complete(item: ObjectType, base: Row, row: Row) -> Row:
    whole = base | row
    derive(item.name, whole, None, frozenset(row), whole.get("SystemModstamp") or START_MS)
    return whole


def _insert(conn: sqlite3.Connection, item: ObjectType, rows: list[Row]) -> None:
    """Insert rows that all have the same columns."""
    columns = ", ".join(quoted(column) for column in rows[0])
    marks = ", ".join("?" * len(rows[0]))
    values = [tuple(row.values()) for row in rows]
    conn.executemany(f"INSERT INTO {quoted(item.name)} ({columns}) VALUES ({marks})", values)


def _stamps(number: int, salt: int) -> Row:
    created = START_MS + mix(number, salt) % SPAN_SECONDS * 1000
    changed = created + mix(number, salt + 1) % SPAN_SECONDS // TIE_SECONDS * TIE_SECONDS * 1000
    changed = max(created, changed // (TIE_SECONDS * 1000) * TIE_SECONDS * 1000)
    return {"CreatedDate": created, "LastModifiedDate": changed, "SystemModstamp": changed}


def _pick(options: tuple[Any, ...], number: int, salt: int) -> Any:
    return options[mix(number, salt) % len(options)]


def _user(number: int) -> Row:
    first, last = FIRST[number % len(FIRST)], LAST[number % len(LAST)]
    username = DEFAULT_USERNAME if number == 0 else f"user{number}@local-org.example"
    stamps = dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), START_MS)
    return {
        "Id": user_id(number),
        "Username": username,
        "FirstName": first,
        "LastName": last,
        "Email": username,
        "Alias": f"user{number}",
        "IsActive": 1,
        "ProfileId": numbered("00e", 0),
        "TimeZoneSidKey": "GMT",
        "LocaleSidKey": "en_US",
        "EmailEncodingKey": "UTF-8",
        "LanguageLocaleKey": "en_US",
        **stamps,
    }


def _account(number: int, _accounts: int) -> Row:
    city, country = _pick(CITIES, number, 1)
    return {
        "Id": numbered("001", number),
        "Name": f"{_pick(WORDS, number, 2)} {_pick(KINDS, number, 3)} {number}",
        "Industry": _pick(INDUSTRIES, number, 4),
        "Type": "Prospect" if number % 3 else None,
        "Phone": f"+49 30 {mix(number, 5) % 10_000_000:07d}",
        "Website": f"https://account{number}.example",
        "AnnualRevenue": mix(number, 6) * 97 if number % 4 else None,
        "NumberOfEmployees": mix(number, 7) % 20_000,
        "BillingStreet": f"{number % 200 + 1} Main Street\nFloor {number % 9}",
        "BillingCity": city,
        "BillingCountry": country,
        "Description": _pick(NOTES, number, 8),
        "OwnerId": user_id(number % USERS),
        **_stamps(number, 10),
    }


def _contact(number: int, accounts: int) -> Row:
    city, country = _pick(CITIES, number, 21)
    return {
        "Id": numbered("003", number),
        "FirstName": _pick(FIRST, number, 22),
        "LastName": f"{_pick(LAST, number, 23)} {number}",
        "Email": f"contact{number}@example.com" if number % 5 else None,
        "Phone": f"+33 1 {mix(number, 24) % 100_000_000:08d}",
        "Title": _pick(TITLES, number, 25),
        "Department": "Sales" if number % 2 else None,
        "LeadSource": _pick(SOURCES, number, 26),
        "Birthdate": f"{1950 + mix(number, 27) % 50}-{mix(number, 28) % 12 + 1:02}-{mix(number, 29) % 28 + 1:02}",
        "AccountId": numbered("001", mix(number, 30) % accounts) if accounts and number % 20 else None,
        "MailingStreet": f"{number % 99 + 1} Rue de l’Église",
        "MailingCity": city,
        "MailingCountry": country,
        "MailingPostalCode": f"{mix(number, 31) % 100_000:05d}",
        "Description": _pick(NOTES, number, 32),
        "DoNotCall": number % 2,
        "OwnerId": user_id(number % USERS),
        **_stamps(number, 40),
    }


def _opportunity(number: int, accounts: int) -> Row:
    stages = tuple(STAGES)
    return {
        "Id": numbered("006", number),
        "Name": f"{_pick(WORDS, number, 51)} deal {number}",
        "AccountId": numbered("001", mix(number, 52) % accounts) if accounts and number % 15 else None,
        "StageName": _pick(stages, number, 53),
        "Amount": mix(number, 54) % 100_000_000 if number % 7 else None,
        "CloseDate": f"{2023 + mix(number, 55) % 4}-{mix(number, 56) % 12 + 1:02}-{mix(number, 57) % 28 + 1:02}",
        "LeadSource": _pick(SOURCES, number, 58),
        "NextStep": _pick(NOTES, number, 59),
        "OwnerId": user_id(number % USERS),
        **_stamps(number, 60),
    }


def _lead(number: int, _accounts: int) -> Row:
    return {
        "Id": numbered("00Q", number),
        "FirstName": _pick(FIRST, number, 71),
        "LastName": f"{_pick(LAST, number, 72)} {number}",
        "Company": f"{_pick(WORDS, number, 73)} {_pick(KINDS, number, 74)}",
        "Email": f"lead{number}@example.com",
        "Status": "Open - Not Contacted",
        "LeadSource": _pick(SOURCES, number, 75),
        "OwnerId": user_id(number % USERS),
        **_stamps(number, 80),
    }


MAKERS: dict[str, Callable[[int, int], Row]] = {
    "Account": _account,
    "Contact": _contact,
    "Opportunity": _opportunity,
    "Lead": _lead,
}
