"""Resources that say what there is: versions, resources, limits, describes. Source: REST API Developer Guide."""

from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import Any

from local_org import describe
from local_org.bulk_jobs import MAX_BATCHES_A_DAY
from local_org.catalogue import ObjectType
from local_org.context import Answer, Context
from local_org.errors import ApiError
from local_org.words import whole_number

OLDEST, LATEST = 31, 68
FIRST_RETIRED = 7
_SEASONS = ("Winter", "Spring", "Summer")


def label_of(version: int) -> str:
    """The release that brought an API version: 68 is Winter '27, and there are three a year."""
    releases = version - LATEST
    return f"{_SEASONS[releases % 3]} '{(27 + releases // 3):02d}"


def versions() -> list[dict[str, str]]:
    return [
        {"label": label_of(number), "url": f"/services/data/v{number}.0", "version": f"{number}.0"}
        for number in range(OLDEST, LATEST + 1)
    ]


# Those that answer here; a real org has more.
_RESOURCES = ("tooling", "tabs", "quickActions", "queryAll", "search", "composite", "parameterizedSearch", "theme",
              "recent", "limits", "query", "jobs", "compactLayouts", "sobjects", "ui-api")  # fmt: skip


def resources(base: str, identity: str) -> dict[str, str]:
    """Names of resources and their paths; `identity` is an absolute URL."""
    return {name: f"{base}/{name}" for name in _RESOURCES} | {"identity": identity}


def unmodified(ctx: Context, modified_ms: int, *, strict: bool = False) -> bool:
    """Whether the caller's copy (If-Modified-Since, in whole seconds) is still right.

    An unreadable date counts as none, or (`strict`, for writes) raises ApiError INVALID_HEADER.
    """
    since = ctx.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return modified_ms // 1000 <= int(parsedate_to_datetime(since).timestamp())
    except ValueError:
        if strict:
            raise ApiError(400, "INVALID_HEADER", f"Invalid value for If-Modified-Since: {since}") from None
        return False


def http_date(ms: int) -> str:
    return _http_date(ms // 1000)


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _conditional(ctx: Context, build: Any) -> Answer:
    headers = {"Last-Modified": http_date(ctx.catalogue.modified_ms)}
    if unmodified(ctx, ctx.catalogue.modified_ms):
        return Answer(304, None, headers)
    return Answer(200, build(), headers)


def global_describe(ctx: Context) -> Answer:
    """GET sobjects."""
    base = ctx.url("").rstrip("/")

    def build() -> dict[str, Any]:
        entries = [describe.describe_entry(item, base) for item in ctx.catalogue.objects()]
        return {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": entries}

    return _conditional(ctx, build)


def object_describe(ctx: Context, object_name: str) -> Answer:
    """GET sobjects/{object}/describe."""
    item = ctx.object(object_name)
    base = ctx.url("").rstrip("/")

    def build() -> dict[str, Any]:
        types = record_types(ctx, item, base)
        return describe.describe_object(ctx.catalogue, item, base, ctx.host_url, types)

    return _conditional(ctx, build)


def record_types(ctx: Context, item: ObjectType, base: str) -> list[dict[str, Any]]:
    sql = (
        'SELECT "Id", "Name", "DeveloperName" FROM "RecordType" WHERE "SobjectType" = ? AND "IsActive" ORDER BY "Name"'
    )
    with ctx.store.read() as conn:
        rows = conn.execute(sql, (item.name,)).fetchall()
    infos = [describe.record_type_info(item, base, row, default=i == 0) for i, row in enumerate(rows)]
    return [*infos, describe.record_type_info(item, base, None, default=not rows)]


def limits(ctx: Context) -> dict[str, Any]:
    """GET limits: true counters where the local org counts, whole allowances elsewhere."""
    allowed = ctx.org.settings.api_limit
    left = max(0, allowed - ctx.org.usage.used())
    fixed = {
        "ActiveScratchOrgs": 3,
        "ConcurrentAsyncGetReportInstances": 200,
        "ConcurrentSyncReportRuns": 20,
        "DailyAsyncApexExecutions": 250_000,
        "DailyBulkV2QueryFileStorageMB": 976_562,
        "DailyDurableStreamingApiEvents": 10_000,
        "DailyGenericStreamingApiEvents": 10_000,
        "DailyStreamingApiEvents": 10_000,
        "DailyWorkflowEmails": 100_000,
        "DataStorageMB": 1_024,
        "FileStorageMB": 1_024,
        "HourlyAsyncReportRuns": 1_200,
        "HourlyODataCallout": 20_000,
        "HourlyPublishedPlatformEvents": 50_000,
        "HourlySyncReportRuns": 500,
        "HourlyTimeBasedWorkflow": 1_000,
        "MassEmail": 5_000,
        "SingleEmail": 5_000,
    }
    answer = {name: {"Max": size, "Remaining": size} for name, size in fixed.items()}
    answer["DailyApiRequests"] = {"Max": allowed, "Remaining": left}
    batches = MAX_BATCHES_A_DAY - ctx.org.batches_today()
    answer["DailyBulkApiBatches"] = {"Max": MAX_BATCHES_A_DAY, "Remaining": max(0, batches)}
    answer["DailyBulkV2QueryJobs"] = {"Max": 10_000, "Remaining": 10_000 - ctx.org.jobs_today()}
    return dict(sorted(answer.items()))


def record_count(ctx: Context) -> dict[str, Any]:
    """GET limits/recordCount?sObjects=A,B: objects without rows are left out."""
    asked = [name for name in ctx.query.get("sObjects", "").split(",") if name]
    items = [ctx.catalogue.object(name) for name in asked] if asked else list(ctx.catalogue.objects())
    with ctx.store.read() as conn:
        counts = [
            {"count": conn.execute(f'SELECT count(*) FROM "{item.name}"').fetchone()[0], "name": item.name}
            for item in items
            if item is not None
        ]
    return {"sObjects": [entry for entry in counts if entry["count"]]}


def check_version(version: str) -> None:
    """Raises ApiError: 410 for a retired version, 404 for one that does not exist."""
    whole, _, part = version.partition(".")
    number = whole_number(whole) or 0
    if part != "0" or whole != str(number) or number > LATEST or number < FIRST_RETIRED:
        raise ApiError(404, "NOT_FOUND", "The requested resource does not exist")
    if number < OLDEST:
        text = f"This API version is not supported: {version}"
        raise ApiError(410, "UNSUPPORTED_API_VERSION", text)
