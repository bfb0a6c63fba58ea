"""Uploaded CSV of an ingest job: reading it row by row, and writing result files with its columns.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Prepare CSV Files", "Valid CSV Record Rows".
"""

import csv
import mmap
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_org.bulk_jobs import DELIMITERS, LINE_ENDINGS, Job, JobFailedError

UPLOAD = "upload.data"  # the file, in the job's folder
MAX_HEADER_CHARACTERS = 32_000
MAX_FIELDS = 5_000
MAX_FIELD_CHARACTERS = 131_072
MAX_ROW_CHARACTERS = 400_000

csv.field_size_limit(sys.maxsize)  # our own limits say more than the module's


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file. Rows are numbered from 0; the header is not one of them. Batches of Bulk API 1.0 may end their
    lines as they like (`any_ending`)."""

    path: Path
    delimiter: str
    line_ending: str
    any_ending: bool = False

    @staticmethod
    def of(job: Job, path: Path) -> "Upload":
        return Upload(path, DELIMITERS[job.delimiter], job.line_ending, any_ending=job.kind == "batch")

    def header(self) -> list[str]:
        """The column names. Raises JobFailedError for a header that no job takes."""
        self._check_line_ending()
        self._check_quotes()
        header = next(self._lines(), [])
        if len(header) > MAX_FIELDS or sum(map(len, header)) > MAX_HEADER_CHARACTERS:
            raise JobFailedError("InvalidBatch : The header is too long")
        lower = [name.lower() for name in header]
        doubled = next((name for name in header if lower.count(name.lower()) > 1), None)
        if doubled is not None:
            raise JobFailedError(f"InvalidBatch : Duplicate field name found : {doubled}")
        return header

    def raw_header(self) -> list[str]:
        """The column names, whatever is wrong with them."""
        with self.path.open("rb") as file:
            first = file.readline(MAX_HEADER_CHARACTERS * 4).decode("utf-8-sig", "replace")
        return next(csv.reader([first.rstrip("\r\n")], delimiter=self.delimiter), [])

    def readable_rows(self) -> Iterator[list[str]]:
        """The data rows up to the first that is not CSV."""
        try:
            yield from self.rows()
        except JobFailedError:
            return

    def _check_quotes(self) -> None:
        """A quote begins a value or is doubled inside a quoted one: nothing, not even a space, comes before it."""
        if not self.path.stat().st_size:
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b'"') < 0:
                return
            before = b"[" + re.escape(self.delimiter.encode()) + rb"\r\n]"
            quoted = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=" + before + rb'))"(?:[^"]|"")*"')
            if b'"' in quoted.sub(b"", data):
                text = "Failed to parse CSV. Found unescaped quote. A value with quote should be within a quote"
                raise JobFailedError(f"InvalidBatch : {text}")

    def _check_line_ending(self) -> None:
        with self.path.open("rb") as file:
            first = file.readline(MAX_HEADER_CHARACTERS * 4)
        ending = "CRLF" if first.endswith(b"\r\n") else "LF"
        if not self.any_ending and first.endswith(b"\n") and ending != self.line_ending:
            text = f"LineEnding is invalid on user data. Current LineEnding setting is {self.line_ending}"
            raise JobFailedError(f"ClientInputError : {text}")

    def _lines(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from csv.reader(file, delimiter=self.delimiter, strict=True)
            except (csv.Error, UnicodeDecodeError) as error:
                raise JobFailedError(f"InvalidBatch : Failed to parse CSV data: {error}") from None

    def rows(self) -> Iterator[list[str]]:
        """The data rows; empty lines are none. Raises JobFailedError where a row is not CSV."""
        lines = self._lines()
        width = len(next(lines, []))
        for line in lines:
            if not line:
                continue
            if len(line) != width:
                text = f"The number of columns, {len(line)}, is not that of the header, {width}: {','.join(line)[:100]}"
                raise JobFailedError(f"InvalidBatch : {text[:1000]}")
            _check_size(line)
            yield line


def _check_size(line: Sequence[str]) -> None:
    if any(len(value) > MAX_FIELD_CHARACTERS for value in line) or sum(map(len, line)) > MAX_ROW_CHARACTERS:
        raise JobFailedError("InvalidBatch : Field or row size exceeds the limit")


def write_rows(path: Path, upload: Upload, lines: Iterable[Sequence[str]]) -> None:
    """Write result lines, every value quoted, in the upload's delimiter and line ending."""
    draft = path.with_suffix(".draft")
    ending = LINE_ENDINGS[upload.line_ending]
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=upload.delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
        writer.writerows(lines)
    draft.replace(path)
