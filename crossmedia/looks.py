"""Say what bytes look like that are not a photo, so that people can read the reason; nothing is decoded."""

from __future__ import annotations

import os
import re

HEAD = 1024  # bytes that are looked at
TAR, PARQUET = "a tar", "a Parquet file"
SHOWN = 40  # characters of a text

_LOOKS = {
    "an HTML page, which a web server sends where it has no photo": rb"(?i:\s*<(.{0,500}<)?(!doctype html|html)[\s>])",
    "an SVG drawing": rb"(?i:\s*<(.{0,1000}<)?svg[\s>])",
    "XML, which an object store sends where it has no photo": rb"\s*<\?xml|<Error>",
    "HTML, which a web server sends where it has no photo": rb"(?i:\s*<(body|head|title|div|p|h[1-6]|script|pre)\b)",
    "a Git LFS pointer, and not the photo that it stands for: run 'git lfs pull'": rb"version https://git-lfs\.github",
    "a git-annex pointer, and not the photo that it stands for: run 'git annex get'": rb"/annex/objects/",
    "a HEIC photo": rb"....ftyp(hei[a-z]|hev[a-z]|(mif1|msf1).{4}(....)*?(hei|hev))",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ",
    "a JPEG XL photo": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "a JPEG 2000 photo": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "a TIFF, or a camera's raw photo": rb"II[*+]\0|MM\0[*+]|IIU\0|IIRO|FUJIFILM",
    "an icon (ICO)": rb"\x00\x00[\x01\x02]\x00(?!\x00\x00)",  # with as many pictures
    "an icon (ICNS)": rb"icns",
    "a Photoshop file": rb"8BPS",
    "a PDF": rb"%PDF",
    "a PostScript file (EPS)": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a ZIP archive": rb"PK\x03\x04|PK\x05\x06",
    "a gzip archive": rb"\x1f\x8b",
    "another archive": rb"7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd",
    TAR: rb".{257}ustar",
    PARQUET: rb"PAR1",
    "what macOS keeps beside a file (AppleDouble), and not the file": rb"\x00\x05\x16[\x00\x07]",
    "a QOI picture": rb"qoif",
    "a DDS picture": rb"DDS ",
    "a PNM picture": rb"P[1-7]\s",
    "a NumPy file": rb"\x93NUMPY",
    # No mark, but a header: a map of colours or none, and bits a pixel.
    "a TGA picture": (
        rb".(\x00[\x02\x03\x0a\x0b]\x00{5}|\x01[\x01\x09].{4}[\x0f\x10\x18\x20]).{8}[\x08\x0f\x10\x18\x20][\x00-\x3f]"
    ),
    "JSON": rb"\s*[{\[]\s*(\"|\}|\]|\{|[0-9])",
}
_COMPILED = {what: re.compile(b"(?:" + pattern + b")", re.DOTALL) for what, pattern in _LOOKS.items()}
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")


def looks_like(data: bytes) -> str:
    """What the bytes of a file look like, as the rest of a sentence that begins with "it is"."""
    head = data[:HEAD]
    if not data:
        return "empty (0 bytes)"
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes"
    for what, pattern in _COMPILED.items():
        if pattern.match(head.removeprefix(b"\xef\xbb\xbf")):
            return what
    text = _as_text(head)
    return f"text, which begins {text!r}" if text else f"none of what is known here, beginning with {head[:8].hex(' ')}"


def file_in_words(path: str | os.PathLike[str]) -> str:
    """What a file looks like that should be Parquet but does not begin like it, as ``: it is …``; else empty."""
    try:
        with open(path, "rb") as file:
            what = looks_like(file.read(HEAD))
    except OSError:
        return ""
    return "" if what == PARQUET else f": it is {what}"


def _as_text(head: bytes) -> str:
    """The beginning of a text in one line; empty if the bytes are not text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", errors="ignore")
    elif _NO_TEXT.search(head):
        return ""
    else:
        text = head.decode("utf-8", errors="replace")
        if text[:-1].count("\ufffd"):  # the last one may be cut
            return ""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"
