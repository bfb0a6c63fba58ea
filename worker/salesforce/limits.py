"""Vendor limits as named constants, each with its source. No bare 200 or 25 anywhere else."""

COLLECTION_RECORDS = 200  # REST API guide, "sObject Collections": create, update, upsert, delete
COLLECTION_RETRIEVE_IDS = 2_000  # REST API guide, "Get Records from the Same Object with a POST" (ids in the body)
COLLECTION_CHUNKS = 10  # REST API guide: runs of consecutive records of one type in one collection

COMPOSITE_SUBREQUESTS = 25  # REST API guide, "Composite": subrequests in one call
COMPOSITE_QUERIES = 5  # REST API guide, "Composite": of these, queries and collections

QUERY_PAGE_RECORDS = 2_000  # REST API guide, "Query Options Header": largest batchSize, and the default
QUERY_PAGE_RECORDS_MIN = 200  # same: smallest batchSize
SOQL_CHARACTERS = 100_000  # SOQL and SOSL reference, "SOQL and SOSL Limits for Search Queries"
SOQL_STRING_CHARACTERS = 4_000  # same: one string in a WHERE clause
URL_BYTES = 16_384  # REST API guide, "Status Codes and Error Responses": 414; with the headers: 431
URL_BYTES_SAFE = 12_000  # ours: room for host, headers and a long token below URL_BYTES

BULK_PAGE_SECONDS = 20 * 60  # Bulk API 2.0 guide, "Limits": retrieval of one result page
BULK_QUERY_JOBS_PER_DAY = 10_000  # same
BULK_JOB_DAYS = 7  # same: jobs and results are kept
BULK_RETRIES = 15  # same: a query attempt that is retried more often fails

INGEST_CELL_CHARACTERS = 131_072  # Bulk API 2.0 guide, "Limits": one field of an uploaded row
INGEST_BATCH_ROWS = 10_000  # same: rows that the org counts as one of the day's 15,000 batches
INGEST_JOB_HOURS = 24  # same: how long a job may stay open
INGEST_JOB_BYTES = 150 * 1024 * 1024  # Bulk API 2.0 guide: size of the data after base64; about 100 MB of CSV
INGEST_UPLOAD_BYTES = 100 * 1024 * 1024  # same: what the guide tells to stay below before encoding

UPDATED_DAYS = 30  # SOAP API guide, "getUpdated()": how far back
DELETED_DAYS = 15  # SOAP API guide, "getDeleted()": how far back
UPDATED_IDS = 600_000  # same: more → EXCEEDED_ID_LIMIT

REQUEST_SECONDS = 600  # Limits quick reference: the longest REST call
QUERY_SECONDS = 120  # same: the longest query

LONG_CALLS = (
    25  # Limits quick reference, "Concurrent API Request Limits": calls of 20 s or longer, production and sandbox
)
LONG_CALLS_DEVELOPER = 5  # same: Developer Edition and trial orgs
DEVELOPER_CALLS_PER_DAY = (
    15_000  # same, "Total API Request Allocations": Developer Edition; every paid edition has more
)

BULK_RESULT_BYTES_PER_DAY = 1 << 40  # Bulk API 2.0 guide, "Limits": results of query jobs, 1 TB
INGEST_ROWS_PER_DAY = 150_000_000  # same
INGEST_BATCHES_PER_DAY = 15_000  # same; shared with Bulk 1.0
INGEST_BATCH_ROWS = 10_000  # same: 2.0 makes one batch of so many rows
