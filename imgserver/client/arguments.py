"""What callers of a client give, held to its type at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from crossmedia.arguments import check_seconds, check_whole, must
from crossmedia.hosts import host_and_port
from crossmedia.imgserver.client.addresses import SCHEMES, SOCKETS
from crossmedia.imgserver.client.results import DTYPE_CODES
from crossmedia.imgserver.client.security import ClientSecurity


def check_version(version: Any) -> None:
    """Refuse what is neither a version nor None.

    Raises:
        BadInput: it is neither.
    """
    must(version is None or isinstance(version, str), "version", version, "a str, or None for the active one")


def check_settings(version: Any, timeout_s: Any, dtype: Any, in_flight: Any) -> None:
    """Refuse settings of a client that are of another type.

    Raises:
        BadInput: one is.
    """
    check_version(version)
    check_seconds(timeout_s)
    must(isinstance(dtype, str) and dtype in DTYPE_CODES, "dtype", dtype, f"one of {', '.join(DTYPE_CODES)}")
    check_whole("in_flight", in_flight)


def check_servers(servers: Sequence[Any], security: Any) -> None:
    """Refuse what is neither an address nor a transport.

    Raises:
        BadInput: one is neither, or has no port; or ``security`` is of another type.
    """
    must(security is None or isinstance(security, ClientSecurity), "security", security, "a ClientSecurity, or None")
    for server in servers:
        transport = callable(getattr(server, "call", None)) and callable(getattr(server, "get_vectors", None))
        must(isinstance(server, str) or transport, "server", server, "an address such as 'localhost:7070', or a list")
        if isinstance(server, str) and not server.strip().startswith((*SCHEMES, *SOCKETS)):
            for part in filter(str.strip, server.split(",")) if "," in server else [server]:
                host_and_port(part.strip())


def check_photos(photos: Any) -> None:
    """Refuse what does not map image ids to photos, or to texts.

    Raises:
        BadInput: it is no dict, or a photo is neither bytes nor a text.
    """
    must(isinstance(photos, Mapping), "photos", photos, "a dict, image id -> the bytes of the photo")
    for image_id, photo in photos.items():
        must(isinstance(photo, bytes | str), f"The photo of image {image_id}", photo, "bytes, or a str for a text")


def check_queries(queries: Any) -> None:
    """Refuse what is no list of image ids, of photos, or of words; a text alone would be one of its letters.

    Raises:
        BadInput: it is none, or holds words and others.
    """
    what = "a list of image ids, of photos as bytes, or of words"
    must(isinstance(queries, Sized) and not isinstance(queries, bytes | str | Mapping), "queries", queries, what)
    if getattr(getattr(queries, "dtype", None), "kind", "O") != "O":
        return  # an array of numbers
    kinds = {next((kind for kind in (bytes, str) if isinstance(query, kind)), int) for query in queries}
    must(len(kinds) < 2, "queries", queries, f"{what}, and not of two of these")
