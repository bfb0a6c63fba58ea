"""FORMAT(): values as text for people, in the locale en_US. Source: SOQL and SOSL Reference, "FORMAT()"."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from local_org.catalogue import Field
from local_org.values import to_json


def formatted(field: Field, stored: Any, zone: str) -> Any:
    """Text such as "1,234.5", "$1,234.50", "11/22/2026", "11/22/2026, 10:00 AM"; null stays null."""
    if stored is None:
        return None
    match field.type:
        case "currency":
            amount = Decimal(stored).scaleb(-field.scale)
            return f"{'-' if amount < 0 else ''}${abs(amount):,.2f}"
        case "double" | "percent" | "int" | "long":
            number = f"{Decimal(stored).scaleb(-field.scale):,f}"
            number = number.rstrip("0").rstrip(".") if "." in number else number
            return f"{number}%" if field.type == "percent" else number
        case "date":
            day = date.fromisoformat(stored)
            return f"{day.month}/{day.day}/{day.year}"
        case "datetime":
            return _moment(datetime.fromtimestamp(stored / 1000, UTC).astimezone(ZoneInfo(zone)))
    return to_json(field, stored)


def _moment(moment: datetime) -> str:
    hour = moment.hour % 12 or 12
    half = "AM" if moment.hour < 12 else "PM"
    return f"{moment.month}/{moment.day}/{moment.year}, {hour}:{moment.minute:02d} {half}"
