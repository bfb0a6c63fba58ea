"""A question answered by REST: the pages of a query, whole also when the org forgets its cursor in between."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.errors import RejectedError
from worker.mirror.asking import Question
from worker.salesforce import rest
from worker.salesforce.client import OrgClient
from worker.salesforce.rest import QueryPage

LOST = frozenset(
    {"INVALID_QUERY_LOCATOR", "EXCEEDED_ID_LIMIT"}
)  # the latter: of objects that have no cursors (metadata)


def pages(client: OrgClient, question: Question, first: QueryPage | None = None) -> Iterator[QueryPage]:
    """The pages that answer `question`, records in its order; `first` if it was asked already.

    A cursor lives for two days at most, and may be gone earlier. The question is then asked again for what comes behind
    the last record: a record that changed meanwhile has moved behind it, or is not in this question any more.
    """
    page = first or rest.query(client, question.soql(), all_rows=question.all_rows)
    after: list[Any] | None = None
    while True:
        yield page
        after = position(page.records, question.order) or after
        if page.next_url is None:
            return
        try:
            page = rest.more(client, page.next_url)
        except RejectedError as error:
            if error.code not in LOST:
                raise
            page = rest.query(client, question.soql(after=after), all_rows=question.all_rows)


def position(records: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[Any] | None:
    """The last record's values of the order's fields, as a question takes them; None for no records or no order."""
    if not records or not order:
        return None
    return [_literal(field, records[-1][field]) for field in order]


def _literal(field: str, value: Any) -> Any:
    return value if field == "Id" else rest.parse_instant(value)
