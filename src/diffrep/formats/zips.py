"""Where the entries of a torch.save zip file lie, without unpacking anything.

torch.save never compresses, so a compressed entry is refused; so are entries that together claim more bytes than the
file has (a zip bomb), and more entries than any checkpoint holds.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from diffrep.errors import FormatError

MAX_ENTRIES = 50_000
END, LOCATOR64, END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
HEADER = struct.Struct("<4s22xHH")


def entries(path: Path, buffer: memoryview) -> dict[str, slice]:
    """Name -> place of its bytes in the file.

    Errors:
        FormatError: truncated, compressed, encrypted, too many entries, or entries larger than the file.
    """
    count, size = announced(buffer)
    if count > MAX_ENTRIES or size > 500 * MAX_ENTRIES:
        raise FormatError(f"the zip file announces {count} entries", f"no checkpoint has more than {MAX_ENTRIES}")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise FormatError(f"the zip file is broken ({error})", "copy the file again") from error
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise FormatError(f"the entry {info.filename[:80]} is compressed", "torch.save never compresses")
    claimed = sum(info.file_size for info in infos)
    if claimed > len(buffer):
        raise FormatError(f"the entries claim {claimed} bytes in a file of {len(buffer)}", "this is a zip bomb")
    return {info.filename: place(info, buffer) for info in infos}


def place(info: zipfile.ZipInfo, buffer: memoryview) -> slice:
    """Where an entry's bytes lie: behind its local header."""
    head = bytes(buffer[info.header_offset : info.header_offset + 30])
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise FormatError(f"the entry {info.filename[:80]} has no header", "copy the file again")
    _, name, extra = HEADER.unpack(head)
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > len(buffer):
        raise FormatError(f"the entry {info.filename[:80]} is truncated", "copy the file again")
    return slice(start, start + info.file_size)


def announced(buffer: memoryview) -> tuple[int, int]:
    """(entries, bytes) of the central directory, from the end record; 64-bit where the file says so."""
    tail = bytes(buffer[-66_000:])
    end = tail.rfind(END)
    if end < 0 or len(tail) < end + 22:
        raise FormatError("the zip file has no end record: it is truncated", "copy the file again")
    count, size = struct.unpack("<HI", tail[end + 10 : end + 16])
    locator = tail.rfind(LOCATOR64, 0, end)
    if locator >= 0 and (count == 0xFFFF or size == 0xFFFFFFFF):
        (offset,) = struct.unpack("<Q", tail[locator + 8 : locator + 16])
        record = bytes(buffer[offset : offset + 56])
        if record[:4] != END64 or len(record) < 56:
            raise FormatError("the zip file's end record is broken", "copy the file again")
        count, size = struct.unpack("<QQ", record[32:48])
    return count, size
