"""What callers in Python give, held to its type at once: later it would fail far from the line that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.hosts import host_and_port
from crossmedia.imgserver.client.addresses import SCHEMES, SOCKETS
from crossmedia.imgserver.client.results import DTYPE_CODES
from crossmedia.imgserver.client.security import ClientSecurity


def must(fits: bool, name: str, value: Any, what: str) -> None:
    """Refuse a value that does not fit.

    Args:
        fits: whether it does.
        name: of the argument.
        value: as it was given.
        what: it must be.

    Raises:
        BadInput: it does not fit.
    """
    if not fits:
        text = repr(value)
        raise BadInput(f"{name} is {text if len(text) <= 80 else f'{text[:76]} ...'}; it must be {what}.")


def check_seconds(timeout_s: Any) -> None:
    """Refuse what is no number of seconds.

    Raises:
        BadInput: it is none.
    """
    number = isinstance(timeout_s, Real) and not isinstance(timeout_s, bool) and not math.isnan(timeout_s)
    must(number, "timeout_s", timeout_s, "a number of seconds")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        BadInput: it is none.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    must(whole and int(value) >= least, name, value, f"a whole number, at least {least}")


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
    """Refuse what does not map image ids to photos.

    Raises:
        BadInput: it is no dict, or a photo is no bytes.
    """
    must(isinstance(photos, Mapping), "photos", photos, "a dict, image id -> the bytes of the photo")
    for image_id, photo in photos.items():
        must(isinstance(photo, bytes), f"The photo of image {image_id}", photo, "bytes")
