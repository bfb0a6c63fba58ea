"""The data API: which handler answers which path below /services/data/vXX.X/."""

from local_org import (
    bulk_ingest,
    bulk_query,
    collections,
    composite,
    layouts,
    metadata,
    query,
    replication,
    rows,
    search,
    tooling,
    tree,
    ui_records,
)
from local_org.context import Context, Result
from local_org.routing import Router


def more(ctx: Context, locator: str) -> Result:
    return query.more(ctx, locator)


def data_router() -> Router:
    """Every path of the data API with its handlers."""
    router = Router()
    add = router.add
    add("limits", GET=metadata.limits)
    add("limits/recordCount", GET=metadata.record_count)
    add("query", GET=query.run_query)
    add("queryAll", GET=query.run_query_all)
    add("query/{locator}", GET=more)
    add("queryAll/{locator}", GET=more)
    add("search", GET=search.run)
    add("parameterizedSearch", GET=search.parameterized_get, POST=search.parameterized_post)
    _add_interface(router)
    _add_rows(router)
    _add_composite(router)
    _add_jobs(router)
    return router


def _add_rows(router: Router) -> None:
    add = router.add
    add("sobjects", GET=metadata.global_describe)
    add("sobjects/{object_name}", GET=layouts.basic_information, POST=rows.create)
    add("sobjects/{object_name}/describe", GET=metadata.object_describe)
    add("sobjects/{object_name}/updated", GET=replication.updated)
    add("sobjects/{object_name}/deleted", GET=replication.deleted)
    add("sobjects/{object_name}/Id", POST=rows.create_by_id_path)
    add("sobjects/{object_name}/{record_id}", GET=rows.get, PATCH=rows.change_row, DELETE=rows.remove)
    by_key = {"GET": rows.get_by_key, "PATCH": rows.upsert_by_key, "DELETE": rows.remove_by_key}
    router.add("sobjects/{object_name}/{key_name}/{value}", **by_key)


def _add_interface(router: Router) -> None:
    """What user interfaces and tools ask for."""
    add = router.add
    add("recent", GET=layouts.recent)
    add("tabs", GET=layouts.tabs)
    add("theme", GET=layouts.theme)
    add("quickActions", GET=layouts.quick_actions)
    add("compactLayouts", GET=layouts.primary_compact_layouts)
    add("sobjects/{object_name}/describe/layouts", GET=layouts.layouts)
    add("sobjects/{object_name}/describe/layouts/{record_type}", GET=layouts.layout)
    add("sobjects/{object_name}/describe/compactLayouts", GET=layouts.compact_layouts)
    add("sobjects/{object_name}/describe/approvalLayouts", GET=layouts.approval_layouts)
    add("sobjects/{object_name}/listviews", GET=layouts.list_views)
    add("sobjects/{object_name}/quickActions", GET=layouts.quick_actions)
    add("sobjects/{object_name}/defaultValues", GET=layouts.default_values)
    add("ui-api/object-info", GET=layouts.object_infos)
    add("ui-api/object-info/{object_name}", GET=layouts.object_info)
    add("tooling", GET=tooling.resources)
    add("tooling/query", GET=tooling.run)
    add("tooling/query/{locator}", GET=tooling.more)
    add("tooling/sobjects", GET=tooling.sobjects)
    add("tooling/sobjects/{object_name}/describe", GET=tooling.object_describe)


def _add_composite(router: Router) -> None:
    add = router.add
    add("composite", POST=composite.composite)
    add("composite/batch", POST=composite.batch)
    add("composite/graph", POST=composite.graph)
    add("composite/tree/{object_name}", POST=tree.create)
    add("ui-api/records", POST=ui_records.create)
    add("ui-api/records/{record_id}", GET=ui_records.get, PATCH=ui_records.change, DELETE=ui_records.remove)
    add("composite/sobjects", POST=collections.create, PATCH=collections.update, DELETE=collections.delete)
    add(
        "composite/sobjects/{object_name}",
        GET=collections.retrieve_get,
        POST=collections.retrieve_post,
    )
    add("composite/sobjects/{object_name}/{key_name}", PATCH=collections.upsert)


def _add_jobs(router: Router) -> None:
    add = router.add
    add("jobs/query", GET=bulk_query.listing, POST=bulk_query.create)
    add("jobs/query/{job_id}", GET=bulk_query.get, PATCH=bulk_query.change, DELETE=bulk_query.delete)
    add("jobs/query/{job_id}/results", GET=bulk_query.results)
    add("jobs/query/{job_id}/resultPages", GET=bulk_query.result_pages)
    add("jobs/ingest", GET=bulk_ingest.listing, POST=bulk_ingest.create)
    add("jobs/ingest/{job_id}", GET=bulk_ingest.get, PATCH=bulk_ingest.change, DELETE=bulk_ingest.delete)
    add("jobs/ingest/{job_id}/batches", PUT=bulk_ingest.upload)
    add("jobs/ingest/{job_id}/successfulResults", GET=bulk_ingest.successful)
    add("jobs/ingest/{job_id}/failedResults", GET=bulk_ingest.failed)
    add("jobs/ingest/{job_id}/unprocessedRecords", GET=bulk_ingest.unprocessed)
