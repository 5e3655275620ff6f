"""Arguments of another type are refused at once, in words that name them; clients in other processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossmedia
from crossmedia.errors import BadInput, CrossMediaError
from crossmedia.imgserver import client as of_client
from crossmedia.imgserver.client import MockTransport

LATER = "localhost:1"  # where nobody answers
# Without their types, as in the programs that these tests are about.
ImageClient: Any = crossmedia.ImageClient
HeadServers: Any = crossmedia.HeadServers
open_store: Any = crossmedia.open_store
GrpcTransport: Any = of_client.GrpcTransport


def mocked() -> Any:
    return ImageClient(MockTransport({1: np.ones(4)}))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: ImageClient(None), "server is None; it must be an address such as 'localhost:7070', or a list."),
        (lambda: ImageClient(7070), "server is 7070; it must be an address"),
        (lambda: ImageClient(Path("store")), "server is PosixPath('store'); it must be an address"),
        (lambda: ImageClient([LATER, None]), "server is None; it must be an address"),
        (lambda: ImageClient("localhost"), "'localhost' must be host:port"),
        (lambda: ImageClient("a:1,b"), "'b' must be host:port"),
        (lambda: GrpcTransport(None), "server is None; it must be an address"),
        (lambda: ImageClient(LATER, timeout_s="3"), "timeout_s is '3'; it must be a number of seconds."),
        (lambda: ImageClient(LATER, timeout_s=None), "timeout_s is None; it must be a number of seconds."),
        (lambda: ImageClient(LATER, timeout_s=float("nan")), "timeout_s is nan; it must be a number of seconds."),
        (lambda: ImageClient(LATER, in_flight=0), "in_flight is 0; it must be a whole number, at least 1."),
        (lambda: ImageClient(LATER, in_flight=2.5), "in_flight is 2.5; it must be a whole number, at least 1."),
        (lambda: ImageClient(LATER, version=3), "version is 3; it must be a str, or None for the active one."),
        (lambda: ImageClient(LATER, dtype="float64"), "dtype is 'float64'; it must be one of "),
        (lambda: ImageClient(LATER, dtype=["float16"]), "dtype is ['float16']; it must be one of "),
        (lambda: ImageClient(LATER, security="token"), "security is 'token'; it must be a ClientSecurity, or None."),
        (lambda: HeadServers(None, "r"), "servers is None; it must be addresses or transports, as a list."),
        (lambda: HeadServers([LATER], 3), "run_id is 3; it must be a str."),
        (lambda: HeadServers([LATER], "r", timeout_s="3"), "timeout_s is '3'; it must be a number of seconds."),
        (lambda: open_store(None), "store is None; it must be a str or Path."),
        (lambda: open_store("none", timeout_s="x"), "timeout_s is 'x'; it must be a number of seconds."),
        (lambda: mocked().get([1], timeout_s="3"), "timeout_s is '3'; it must be a number of seconds."),
        (lambda: mocked().get([1], version=3), "version is 3; it must be a str"),
        (lambda: mocked().info("3"), "timeout_s is '3'; it must be a number of seconds."),
        (
            lambda: mocked().search(None),
            "queries is None; it must be a list of image ids, of photos as bytes, or of words.",
        ),
        (lambda: mocked().search("red dress"), "queries is 'red dress'; it must be a list of image ids"),
        (lambda: mocked().search(b"photo"), "queries is b'photo'; it must be a list of image ids"),
        (lambda: mocked().search({1: 2}), "queries is {1: 2}; it must be a list of image ids"),
        (lambda: mocked().search(["red", 5]), "queries is ['red', 5]; it must be a list of image ids"),
        (lambda: mocked().search([b"x", "red"]), "queries is [b'x', 'red']; it must be a list of image ids"),
        (lambda: mocked().search([1], k="3"), "k is '3'; it must be a whole number."),
        (lambda: mocked().thumbnails([1], max_side="3"), "max_side is '3'; it must be a whole number, at least 1."),
        (lambda: mocked().put([b"x"]), "photos is [b'x']; it must be a dict, image id -> the bytes of the photo."),
        (lambda: mocked().put({7: 7}), "The photo of image 7 is 7; it must be bytes, or a str for a text."),
    ],
)
def test_what_is_of_another_type_is_refused_at_once(work: Callable[[], Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        work()
    assert str(refused.value).startswith(said)


def test_what_fits_is_taken() -> None:
    pair = f"{LATER},localhost:2"
    for server in (LATER, pair, [LATER], "dns:///images:7070", "unix:server.sock", "[::1]:7070", " a:1 "):
        ImageClient(server, timeout_s=3, in_flight=np.int64(2), version="a@0").close()
    with mocked() as client:
        assert client.get([1], timeout_s=np.float32(3)).ok.all()
        assert client.get([1], timeout_s=float("inf")).ok.all()


def test_a_client_of_a_server_connects_anew_in_another_process() -> None:
    client = pickle.loads(pickle.dumps(ImageClient(LATER, timeout_s=0.2, version="a@0", in_flight=2)))
    assert client.version == "a@0"
    with pytest.raises(CrossMediaError, match="No image server answers at localhost:1"):
        client.get([1])


def test_a_client_of_a_store_says_what_to_do_in_another_process(graph_cache: Path) -> None:
    with open_store(graph_cache) as client:
        with pytest.raises(BadInput, match=r"Open the store there, in the worker, with crossmedia\.open_store"):
            pickle.dumps(client)
        assert client.get([1]).ok.all()
