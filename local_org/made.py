"""Records out of numbers: what the n-th record of an object is like. The same on every machine and in every size.

`python -m local_org.made` writes many of them to its standard output, for a seed that uses every core.
"""

import marshal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from local_org.derive import derive
from local_org.ids import numbered
from local_org.objects.sales import STAGES

Row = dict[str, Any]
Block = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # columns, and their values row by row

BLOCK = 5_000
START_MS = 1_640_995_200_000  # 2022-01-01T00:00:00Z: the first record's creation
SPAN_SECONDS = 60_000_000  # creation is spread over about 1.9 years, changes over as much again
TIE_SECONDS = 900  # changes share stamps
USERS = 10
LENGTH_BYTES = 4  # before each block on its way to the org

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


def user_id(number: int) -> str:
    """The number-th user: 0 is the administrator."""
    return numbered("005", number)


def _stamps(number: int, salt: int) -> Row:
    created = START_MS + mix(number, salt) % SPAN_SECONDS * 1000
    changed = created + mix(number, salt + 1) % SPAN_SECONDS // TIE_SECONDS * TIE_SECONDS * 1000
    changed = max(created, changed // (TIE_SECONDS * 1000) * TIE_SECONDS * 1000)
    return {"CreatedDate": created, "LastModifiedDate": changed, "SystemModstamp": changed}


def _pick(options: tuple[Any, ...], number: int, salt: int) -> Any:
    return options[mix(number, salt) % len(options)]


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


def completed(name: str, base: Mapping[str, Any], row: Row) -> Row:
    """A whole record: what all have, what this one has, and what follows from it."""
    whole = {**base, **row}
    derive(name, whole, None, frozenset(row), whole.get("SystemModstamp") or START_MS)
    return whole


def block(name: str, base: Mapping[str, Any], numbers: range, accounts: int) -> Block:
    """The records of these numbers; all have the same columns."""
    make = MAKERS[name]
    return values_of([completed(name, base, make(number, accounts)) for number in numbers])


def values_of(rows: list[Row]) -> Block:
    """Rows that all have the same columns."""
    return tuple(rows[0]), [tuple(row.values()) for row in rows]


def blocks(first: int, after: int) -> list[range]:
    """The numbers from `first` to before `after`, in blocks."""
    return [range(start, min(start + BLOCK, after)) for start in range(first, after, BLOCK)]


def _read_order() -> Iterator[Block]:
    name, base, first, after, accounts, worker, workers = marshal.load(sys.stdin.buffer)  # noqa: S302 - from our own process
    for numbers in blocks(first, after)[worker::workers]:
        yield block(name, base, numbers, accounts)


if __name__ == "__main__":
    for made in _read_order():
        packed = marshal.dumps(made)
        sys.stdout.buffer.write(len(packed).to_bytes(LENGTH_BYTES) + packed)
