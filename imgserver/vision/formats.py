"""What a photo may be: the formats that are opened, and what of a file reaches its decoder.

Decoders spend time and memory on what no pixel needs: a million comments, scans of nothing, a text of a gigabyte. So a
file is walked first, without decoding; what the pixels need is kept, and more parts than a photo has are refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

from crossmedia.looks import looks_like

# Cameras, phones, shops and browsers make these. MPO, a JPEG with more pictures behind it, is read as its first.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_SCANS = 100  # of a JPEG, each a pass over the whole picture; encoders make 10, and no script more than some dozens
MAX_SEGMENTS = 10_000  # of a JPEG; a long profile or depth map takes some hundreds
MAX_TABLES = 64 << 10  # bytes of a JPEG before its first scan, without what is dropped; real ones have 1 or 2 KiB
MAX_CHUNKS = 100_000  # of a PNG, in pieces of 8 KiB as a rule
MAX_BLOCKS = 200_000  # of a GIF; 20 MB in the largest ones are 82,000
MAX_TAGS = 64 << 10  # bytes of one block that may say how a photo is turned; what is longer is passed over

Tags = dict[str, bytes]


class CorruptImage(Exception):
    """The bytes are no picture, or not all of one."""


class ImageTooLarge(Exception):
    """More bytes, pixels, parts, time or memory than are accepted."""


def format_of(data: bytes) -> str:
    """The name of the format, one of ``FORMATS``.

    Raises:
        CorruptImage: it is none of them.
    """
    for name, signature in SIGNATURES.items():
        if signature.match(data):
            return name
    raise not_read(data)


def not_read(data: bytes) -> CorruptImage:
    """That bytes are no photo that is read here, and what they look like."""
    return CorruptImage(f"it is {looks_like(data)}; photos are {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


def essentials(name: str, data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    """What the pixels need of a file, and apart from it the blocks that may say how they are turned.

    Args:
        name: of the format.
        data: the file.
        max_pixels: of any picture in it.

    Returns:
        a file of the same format and pixels; ``exif`` and ``xmp`` where they were taken out of it.

    Raises:
        ImageTooLarge: it has more parts, or larger ones, than a photo has.
        CorruptImage: its parts do not follow each other as the format says.
    """
    return WALKERS[name](data, max_pixels)


SIGNATURES = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM"),
    "AVIF": re.compile(rb"....ftyp(avif|avis|mif1|msf1)", re.DOTALL),
}


def _end_within(what: str) -> CorruptImage:
    return CorruptImage(f"the file ends within {what}")


_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# Zero bytes after 0xFF belong to coded data, and so do the marks between which it can be picked up after an error.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_SOS, _EOI, _SOI, _COM, _APP0, _APP1, _APP14 = 0xDA, 0xD9, 0xD8, 0xFE, 0xE0, 0xE1, 0xEE
_APPS = range(0xE0, 0xF0)
_BASELINE, _FRAMES = 0xC0, {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_OF_COLOURS = {_APP0: b"JFIF\0", _APP14: b"Adobe"}  # how the numbers are to be read; once


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment of a JPEG, coded data passed over: what follows a scan's header."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _EOI:
            return
        marker, at = found[1][0], found.end()
        if marker < 0xC0 or marker == _SOI:  # has no length
            continue
        length = int.from_bytes(data[at : at + 2])
        if length < 2 or at + length > len(data):
            raise _end_within("a segment")
        yield marker, at - 2, at + length  # without the padding before it
        at += length
    raise ImageTooLarge(f"the file has more than {MAX_SEGMENTS} segments")


def plain_jpeg(data: bytes) -> tuple[bytes, int, int] | None:
    """A whole, upright baseline JPEG of 8 bits and one scan, in grey or YCbCr, with its width and height.

    Only its header is walked. What is returned is the file without what its pixels do not need; None: it is no such
    file, or ``essentials`` has to look at it.
    """
    if data.rstrip(b"\0")[-2:] != b"\xff\xd9":  # cut off
        return None
    kept, tags, size = [data[:2]], Tags(), None
    for marker, begin, end in _segments(data):
        body = data[begin + 4 : end]
        if marker == _SOS:
            if size is None or data.find(b"\xff\xda", end) >= 0 or sum(map(len, kept)) > MAX_TABLES:
                return None
            if orientation(tags.get("exif", b""), tags.get("xmp", b"")) != 1:
                return None
            return b"".join(kept) + data[begin:], *size
        if marker == _BASELINE and size is None and len(body) >= 6 and body[0] == 8 and body[5] in (1, 3):
            size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
            if not all(size):
                return None
        elif marker in _FRAMES:
            return None
        if marker == _APP1:
            for key, prefix in (("exif", _EXIF), ("xmp", _XMP)):
                if body.startswith(prefix):
                    tags.setdefault(key, body.removeprefix(prefix))
        elif marker == _APP14 and body.startswith(_OF_COLOURS[_APP14]) and body[11:12] == b"\0":  # no YCbCr
            return None
        elif marker not in (_COM, *_APPS):
            kept.append(data[begin:end])
    return None


def _jpeg(data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    kept, tags, scans, first, dropped = [data[:2]], Tags(), 0, 0, {_COM, *_APPS}
    wanted = dict(_OF_COLOURS)
    for marker, begin, end in _segments(data):
        if marker == _SOS:
            scans, first = scans + 1, first or begin
            if scans > MAX_SCANS:
                raise ImageTooLarge(f"the file has more than {MAX_SCANS} scans")
        elif not first and marker == _APP1:
            body = data[begin + 4 : end]
            for key, prefix in (("exif", _EXIF), ("xmp", _XMP)):
                if body.startswith(prefix):
                    tags.setdefault(key, body.removeprefix(prefix))
        elif not first and marker in wanted:
            if data.startswith(wanted[marker], begin + 4):
                kept.append(data[begin:end])
                del wanted[marker]
        elif not first and marker not in dropped:
            kept.append(data[begin:end])
    if not first:
        raise _end_within("its header")
    if sum(map(len, kept)) > MAX_TABLES:
        raise ImageTooLarge(f"the file has more than {MAX_TABLES} bytes of tables")
    return b"".join(kept) + data[first:], tags


_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_XMP, _PNG_EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"


def _png(data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    """The first picture of an animation, too, for its others lie in chunks of their own."""
    kept, at, tags = [data[:8]], 8, Tags()
    for _ in range(MAX_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind in _PIXEL_CHUNKS or end > len(data):
            kept.append(data[at:end])
        elif end - at <= MAX_TAGS and (tag := _png_tag(kind, data[at + 8 : end - 4])):
            tags.setdefault(*tag)
        if kind == b"IEND" or end > len(data):  # that its end is missing is for the decoder to say
            return b"".join(kept), tags
        at = end
    raise ImageTooLarge(f"the file has more than {MAX_CHUNKS} chunks")


def _png_tag(kind: bytes, body: bytes) -> tuple[str, bytes] | None:
    """A block that may say how the photo is turned, and which; None where a chunk is none, or a damaged one."""
    try:
        if kind == b"eXIf":
            return "exif", body
        if kind == b"iTXt" and body.startswith(_PNG_XMP):
            packed, text = body[len(_PNG_XMP)], body[len(_PNG_XMP) + 2 :].split(b"\0", 2)[2]
            return "xmp", _inflated(text) if packed else text
        if kind in (b"tEXt", b"zTXt") and body.startswith(_PNG_EXIF):
            text = body[len(_PNG_EXIF) :]
            lines = (_inflated(text[1:]) if kind == b"zTXt" else text).split(b"\n")
            return "exif", bytes.fromhex(b"".join(lines[3:]).decode())  # hexadecimal after a heading
    except (ValueError, IndexError, zlib.error):
        pass
    return None


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, MAX_TAGS)


_GIF_PART = re.compile(rb"[!,;]")  # what else stands between blocks is passed over, as every reader does


def _gif(data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    """Up to the end of the first picture; of what stands before it, what says which colour is transparent."""
    if len(data) < 13:
        raise _end_within("its header")
    at = 13 + _colours(data[10])
    kept, left = [data[:at]], MAX_BLOCKS
    while found := _GIF_PART.search(data, at):
        at = found.start()
        if found[0] != b"!":
            break
        end, left = _past_blocks(data, at + 2, left)
        if data[at + 1 : at + 2] == b"\xf9":
            kept.append(data[at:end])
        at = end
        if len(kept) > MAX_SCANS:
            raise ImageTooLarge(f"the file has more than {MAX_SCANS} extensions before its picture")
    if data[at : at + 1] != b"," or len(data) < at + 11:
        raise _end_within("what stands before its picture")
    end, _ = _past_blocks(data, at + 11 + _colours(data[at + 9]), left)
    return b"".join([*kept, data[at:end], b";"]), {}


def _colours(flags: int) -> int:
    """Bytes of a GIF's colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _past_blocks(data: bytes, at: int, left: int) -> tuple[int, int]:
    """Where a chain of blocks ends, or the file, and how many more the file may have."""
    while at < len(data) and data[at]:
        at, left = at + 1 + data[at], left - 1
        if not left:
            raise ImageTooLarge(f"the file has more than {MAX_BLOCKS} blocks")
    return at + 1, left


def _bmp(data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    if len(data) >= 34 and data[14:18] != b"\x0c\0\0\0" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise CorruptImage("a BMP with run lengths is not read; save it without compression")
    return data, {}


_EXTENT = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)


def _avif(data: bytes, max_pixels: int) -> tuple[bytes, Tags]:
    """With the tags hidden, for they are parsed and do not count: an AVIF is turned by a property of its own."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == b"meta":
            meta = data[at : at + size]
            for width, height in _EXTENT.findall(meta):
                if int.from_bytes(width) * int.from_bytes(height) > max_pixels:
                    raise ImageTooLarge(f"a picture in the file has more than {max_pixels} pixels")
            return data[:at] + meta.replace(b"Exif", b"none") + data[at + size :], {}
        if size < 8:  # of 64 bits, or up to the end: such boxes hold pictures, and not what describes them
            break
        at += size
    return data, {}


WALKERS: dict[str, Callable[[bytes, int], tuple[bytes, Tags]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": lambda data, max_pixels: (data, {}),
    "GIF": _gif,
    "BMP": _bmp,
    "AVIF": _avif,
}
_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")
_INTEGERS = {3: 2, 4: 4}  # bytes of EXIF's types


def orientation(exif: bytes, xmp: bytes) -> int:
    """How a photo is turned, 1 to 8 as EXIF counts; 1, upright, where neither block says it, or both are damaged."""
    exif = exif.removeprefix(_EXIF)
    order: Literal["little", "big"] = "big" if exif.startswith(b"M") else "little"
    found = 0
    if exif.startswith((b"II*\0", b"MM\0*")):
        first = int.from_bytes(exif[4:8], order)
        entries = exif[first + 2 : first + 2 + 12 * int.from_bytes(exif[first : first + 2], order)]
        for at in range(0, len(entries) - 11, 12):
            tag, kind, count = (int.from_bytes(entries[at + i : at + j], order) for i, j in ((0, 2), (2, 4), (4, 8)))
            if tag == _ORIENTATION and kind in _INTEGERS and count == 1:
                found = int.from_bytes(entries[at + 8 : at + 8 + _INTEGERS[kind]], order)
    if not found and (said := _IN_XMP.search(xmp)):
        found = int(said[1])
    return found if 1 <= found <= 8 else 1
