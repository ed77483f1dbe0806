"""Recognise compressed files and archives by their first bytes, and name the command that unpacks them."""

from typing import Final

_SKIPPABLE_FRAMES: Final = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_MAGIC: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"\x1f\x8b", "is gzip-compressed", "gzip -dc"),
    (b"\xfd7zXZ\0", "is xz-compressed", "xz -dc"),
    (b"\x5d\0\0", "is lzma-compressed", "xz --format=lzma -dc"),
    (b"BZh", "is bzip2-compressed", "bzip2 -dc"),
    *((magic, "is zstd-compressed", "zstd -dc") for magic in (b"\x28\xb5\x2f\xfd", *_SKIPPABLE_FRAMES)),
    *((magic, "is lz4-compressed", "lz4 -dc") for magic in (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18")),
    (b"LZIP", "is lzip-compressed", "lzip -dc"),
    (b"\x89LZO\0\r\n\x1a\n", "is lzop-compressed", "lzop -dc"),
    (b"\x1f\x9d", "is compressed by compress", "gzip -dc"),
    *((magic, "is a zip archive", "unzip -p") for magic in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "7z x -so"),
    (b"Rar!\x1a\x07", "is a rar archive", "unrar p -inul"),
)
"""First bytes of a format, a clause for messages, and the command that unpacks it to stdout."""

_TAR_OFFSET: Final = 257
LONGEST_MAGIC: Final = _TAR_OFFSET + 5
"""Number of bytes at the beginning of a file that are examined."""


def find_compression(beginning: bytes) -> tuple[str, str] | None:
    """Return a clause that says how a file is compressed, and the command that unpacks it to stdout; else None.

    Args:
        beginning: the first ``LONGEST_MAGIC`` bytes of the file, or the whole of a shorter one.
    """
    for magic, found, command in _MAGIC:
        if beginning.startswith(magic):
            return found, command
    if beginning[_TAR_OFFSET:].startswith(b"ustar"):
        return "is a tar archive", "tar -xOf"
    return None


def describe_compression(beginning: bytes) -> str | None:
    """Return a clause for messages on how a file is compressed and what unpacks it; None if it is not compressed."""
    compression = find_compression(beginning)
    return None if compression is None else f"{compression[0]}; unpack it with {compression[1]}"
