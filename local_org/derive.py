"""What the platform works out by itself when a record is saved: names, stages, fiscal periods, closed flags.

Source: Object Reference (Opportunity, Contact, Task, Case); stage defaults as in a new Developer Edition org.
"""

from collections.abc import Callable, Mapping
from typing import Any

from local_org.objects.sales import FORECASTS, STAGES
from local_org.values import Stored

Row = dict[str, Any]
# (row as it will be saved, row as it was or None, names that the caller gave a value, now) → nothing
Deriver = Callable[[Row, Mapping[str, Stored] | None, frozenset[str], int], None]


def attachment(row: Row, _old: Mapping[str, Stored] | None, _given: frozenset[str], _now: int) -> None:
    """BodyLength counts the bytes of the body."""
    body = str(row.get("Body") or "")
    row["BodyLength"] = len(body) // 4 * 3 - body[-2:].count("=")


LIKELY = frozenset({"Commit", "Most Likely", "Closed"})


def person_name(row: Row, _old: Mapping[str, Stored] | None, _given: frozenset[str], _now: int) -> None:
    """Name is "First Last"; the salutation is not part of it."""
    parts = (row.get("FirstName"), row.get("LastName"))
    row["Name"] = " ".join(part for part in parts if part) or None


def opportunity(row: Row, old: Mapping[str, Stored] | None, given: frozenset[str], now_ms: int) -> None:
    """The stage gives probability and forecast category unless the caller does; amounts and periods follow."""
    stage = STAGES.get(str(row.get("StageName")))
    changed = old is None or old.get("StageName") != row.get("StageName")
    if stage is not None and changed:
        _take_stage(row, stage, given)
        if old is not None:
            row["LastStageChangeDate"] = now_ms
    if stage is not None:
        row["IsClosed"], row["IsWon"] = int(stage[2]), int(stage[3])
    if row.get("ForecastCategoryName") is not None:
        row["ForecastCategory"] = FORECASTS.get(row["ForecastCategoryName"], row.get("ForecastCategory"))
    amount, probability = row.get("Amount"), row.get("Probability")
    row["ExpectedRevenue"] = None if amount is None else _percent_of(amount, probability or 0)
    _fiscal(row)


def _take_stage(row: Row, stage: tuple[int, str, bool, bool], given: frozenset[str]) -> None:
    probability, forecast, _closed, _won = stage
    if "Probability" not in given or row.get("Probability") is None:
        row["Probability"] = probability
    if "ForecastCategoryName" not in given or row.get("ForecastCategoryName") is None:
        row["ForecastCategoryName"] = forecast


def _percent_of(amount: int, percent: int) -> int:
    """Half up, away from zero, as the platform rounds currency."""
    scaled = abs(amount) * percent
    return (scaled + 50) // 100 * (-1 if amount < 0 else 1)


def _fiscal(row: Row) -> None:
    close = row.get("CloseDate")
    if close is None:
        return
    year, quarter = int(close[:4]), (int(close[5:7]) + 2) // 3
    row["FiscalYear"], row["FiscalQuarter"], row["Fiscal"] = year, quarter, f"{year} {quarter}"


def task(row: Row, old: Mapping[str, Stored] | None, _given: frozenset[str], now_ms: int) -> None:
    row["IsClosed"] = int(row.get("Status") == "Completed")
    row["IsHighPriority"] = int(row.get("Priority") == "High")
    was_closed = old is not None and bool(old.get("IsClosed"))
    if row["IsClosed"] != int(was_closed):
        row["CompletedDateTime"] = now_ms if row["IsClosed"] else None


def case(row: Row, old: Mapping[str, Stored] | None, _given: frozenset[str], now_ms: int) -> None:
    row["IsClosed"] = int(row.get("Status") == "Closed")
    if row["IsClosed"] != int(old is not None and bool(old.get("IsClosed"))):
        row["ClosedDate"] = now_ms if row["IsClosed"] else None


def campaign_member(row: Row, _old: Mapping[str, Stored] | None, _given: frozenset[str], _now: int) -> None:
    row["HasResponded"] = int(row.get("Status") == "Responded")


def user(row: Row, old: Mapping[str, Stored] | None, given: frozenset[str], now_ms: int) -> None:
    person_name(row, old, given, now_ms)
    row["UserType"] = row.get("UserType") or "Standard"
    if not row.get("CommunityNickname"):
        row["CommunityNickname"] = str(row.get("Username") or row.get("Name") or "").split("@")[0][:40] or None


DERIVERS: dict[str, Deriver] = {
    "Contact": person_name,
    "Lead": person_name,
    "User": user,
    "Opportunity": opportunity,
    "Task": task,
    "Case": case,
    "CampaignMember": campaign_member,
    "Attachment": attachment,
}


def derive(object_name: str, row: Row, old: Mapping[str, Stored] | None, given: frozenset[str], now_ms: int) -> None:
    """Complete a row that is about to be saved, in place."""
    deriver = DERIVERS.get(object_name)
    if deriver is not None:
        deriver(row, old, given, now_ms)
