"""Where the vectors of a run are: what it remembers, and what is said instead."""

from __future__ import annotations

import pytest

from crossmedia.errors import ServerUnavailable
from crossmedia.trainer.images.places import Sources


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Nobody answers. The run remembers this address: --server, --store or --vectors say"),
        ({"server": "b:2"}, "Nobody answers.$"),
        ({"store": "store"}, "Nobody answers.$"),
        ({"vectors": {"image": "b:2"}}, "Nobody answers.$"),
    ],
)
def test_who_meets_an_address_of_the_run_is_told_so(given: dict[str, object], said: str) -> None:
    sources = Sources.of_run({"server": "a:1"}, **given)  # type: ignore[arg-type]
    with pytest.raises(ServerUnavailable, match=said), sources.said():
        raise ServerUnavailable("Nobody answers.")
