"""A finished query job's file of rows, with an index, and slices of it as HTTP answers."""

import os
import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from anyio import to_thread
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 1 << 20
_OFFSET_BYTES = 8


def write(folder: Path, header: bytes, chunks: Iterable[list[bytes]]) -> int:
    """Write header and lines, and the offset of each line's end; the number of lines."""
    rows, at = 0, len(header)
    with (folder / "rows.csv").open("wb") as file, (folder / "rows.index").open("wb") as index:
        file.write(header)
        array("Q", [at]).tofile(index)
        for lines in chunks:
            file.write(b"".join(lines))
            ends = array("Q", accumulate(map(len, lines), initial=at))
            at = ends[-1]
            ends[1:].tofile(index)
            rows += len(lines)
    return rows


@dataclass(frozen=True, slots=True)
class Results:
    """The files of a finished job. The index is read where it is needed, never as a whole."""

    folder: Path
    rows: int

    def offset(self, row: int) -> int:
        """Where row `row` (from 0) begins."""
        with (self.folder / "rows.index").open("rb") as index:
            index.seek(row * _OFFSET_BYTES)
            return int.from_bytes(index.read(_OFFSET_BYTES), sys.byteorder)

    def page_end(self, start: int, max_rows: int | None, max_bytes: int) -> int:
        """The row after the page that begins at `start`: at least one row, if there is one."""
        if max_rows is not None:
            return min(start + max_rows, self.rows)
        limit = self.offset(start) + max_bytes
        end = bisect_right(range(self.rows + 1), limit, lo=start, key=self.offset) - 1
        return min(max(end, start + 1), self.rows)

    def slices(self, start: int, end: int) -> list[tuple[int, int]]:
        """(offset, length) of the header and of the rows from `start` to `end`."""
        first = self.offset(start)
        return [(0, self.offset(0)), (first, self.offset(end) - first)]


class FileSlices:
    """An HTTP answer made of parts of a file, read in large chunks outside the event loop."""

    media_type = "text/csv"

    def __init__(
        self, path: Path, slices: list[tuple[int, int]], headers: dict[str, str], *, gzip: bool = False
    ) -> None:
        self.path = path
        self.slices = slices
        self.headers = headers
        self.gzip = gzip
        self.status_code = 200

    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        headers = {"content-type": self.media_type, **self.headers}
        if self.gzip:
            headers["content-encoding"] = "gzip"
        else:
            headers["content-length"] = str(sum(length for _, length in self.slices))
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    def _pieces(self) -> Iterator[tuple[int, int]]:
        for offset, length in self.slices:
            for at in range(offset, offset + length, CHUNK_BYTES):
                yield at, min(CHUNK_BYTES, offset + length - at)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._raw_headers()})
        if scope["method"] != "HEAD":
            await self._send_body(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, send: Send) -> None:
        packer = zlib.compressobj(1, wbits=31) if self.gzip else None
        file = os.open(self.path, os.O_RDONLY)
        try:
            for at, size in () if await self._sent_whole(send, file) else self._pieces():
                body = await to_thread.run_sync(_read, file, size, at, packer)
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            os.close(file)
        if packer is not None:
            await send({"type": "http.response.body", "body": packer.flush(), "more_body": True})

    async def _sent_whole(self, send: Send, file: int) -> bool:
        """Whether the parts went straight from the file to the socket; a server's wrapped `send` may know how."""
        straight = getattr(send, "send_file", None)
        if self.gzip or straight is None:
            return False
        return all([await straight(file, offset, length) for offset, length in self.slices])


def _read(file: int, size: int, at: int, packer: "zlib._Compress | None") -> bytes:
    body = os.pread(file, size, at)
    return body if packer is None else packer.compress(body)
