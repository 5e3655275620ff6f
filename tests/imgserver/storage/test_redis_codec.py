"""What lies in Redis, key by key and byte by byte, and how a cluster is named."""

from __future__ import annotations

from dataclasses import replace

import hiredis
import numpy as np
import pytest
import redis.crc
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.cluster.codec import TAG_NAMES, TAGS, Codec, Values, grouped, slot_of, tags_of
from crossmedia.imgserver.storage.cluster.url import RedisUrl
from crossmedia.imgserver.storage.records import SOURCE, SOURCE_FIELDS, Ids, Rows, Space

ID = st.integers(0, 2**63 - 1)
Version = tuple[Codec, Ids, Values]


@st.composite
def rows_of_a_version(draw: st.DrawFn) -> Version:
    ids = np.array(draw(st.lists(ID, min_size=1, max_size=40, unique=True)), dtype=np.int64)
    space = Space(0, draw(st.text("ab@/+", min_size=1)), "vector", draw(st.integers(1, 9)), "float16")
    codec = Codec(space)
    rows = draw(arrays.arrays(np.uint16, (len(ids), space.dim))).view(np.float16)
    sources = draw(arrays.arrays(np.uint64, (len(ids), 3))).view(SOURCE).reshape(len(ids))
    status = draw(arrays.arrays(np.uint8, len(ids)))
    return codec, ids, codec.encode(Rows(space, ids, status, sources, rows))


def parsed(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    words = reader.gets()
    assert isinstance(words, list)
    assert reader.gets() is False, "it is one command"
    return words


@given(rows_of_a_version())
def test_each_id_has_one_key_and_the_keys_of_a_command_lie_in_one_slot(version: Version) -> None:
    codec, ids, values = version
    groups = grouped(ids)
    seen: list[bytes] = []
    held: dict[bytes, bytes] = {}
    for (tag, get), (same, write), (_, start, end) in zip(
        codec.gets(ids, groups), codec.sets(ids, values, groups), groups.parts, strict=True
    ):
        name, *keys = parsed(get)
        assert (name, same) == (b"MGET", tag)
        assert {redis.crc.key_slot(key) for key in keys} == {slot_of(TAG_NAMES[tag])}
        assert (tags_of(ids[groups.order[start:end]]) == tag).all()
        seen += keys
        name, *pairs = parsed(write)
        assert name == b"MSET"
        assert pairs[::2] == keys
        held.update(zip(pairs[::2], pairs[1::2], strict=True))
    assert len(set(seen)) == len(ids)
    assert [int.from_bytes(key[-8:], "little") for key in seen] == ids[groups.order].tolist()
    back, there = codec.decode(ids[groups.order], [held[key] for key in seen])
    assert there.all()
    assert back.tobytes() == values[groups.order].tobytes()


@given(rows_of_a_version(), st.data())
def test_a_value_that_is_not_what_was_written_is_none(version: Version, data: st.DataObject) -> None:
    codec, ids, values = version
    replies: list[bytes | None] = [value.tobytes() for value in values]
    place = data.draw(st.integers(0, len(ids) - 1))
    good: bytes = values[place].tobytes()
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    status, sources = values["status"], values[SOURCE_FIELDS].astype(SOURCE)
    rows = Rows(Space(0, "one", "vector", codec.dim, "float16"), ids, status, sources, values["row"])
    other = Codec(Space(0, "other", "vector", codec.dim, "float16"))
    wrong: list[bytes | None] = [None, b"", good[:-1], good + b"\0", bytes(flipped)]
    wrong.append(other.encode(rows)[place].tobytes())  # of another version
    wrong.append(codec.encode(replace(rows, ids=ids ^ 1))[place].tobytes())  # of another image
    replies[place] = data.draw(st.sampled_from(wrong))
    back, there = codec.decode(ids, replies)
    assert np.flatnonzero(~there).tolist() == [place]
    assert back[there].tobytes() == values[there].tobytes()


def test_tags_lie_evenly_over_the_slots_and_ids_over_the_tags() -> None:
    assert [slot_of(tag) * TAGS // 16_384 for tag in TAG_NAMES] == list(range(TAGS))
    assert [slot_of(tag) for tag in TAG_NAMES] == [redis.crc.key_slot(b"cm:{%s}:x" % tag) for tag in TAG_NAMES]
    for ids in (
        np.arange(64_000),
        1_000_003 * np.arange(64_000),
        np.random.default_rng(0).integers(0, 1 << 62, 64_000),
    ):
        assert np.bincount(tags_of(ids), minlength=TAGS).min() > 800
        assert np.bincount(tags_of(ids), minlength=TAGS).max() < 1200


def test_a_url_is_read_and_printed_without_its_password() -> None:
    url = RedisUrl.parse("rediss://me:p%40ss@a,b:7001,[::1]:7002")
    assert url.hosts == (("a", 6379), ("b", 7001), ("::1", 7002))
    assert (url.user, url.password, url.tls) == ("me", "p@ss", True)
    assert str(url) == "rediss://a:6379,b:7001,[::1]:7002"
    assert "p@ss" not in repr(url)


@pytest.mark.parametrize(
    "text", ["redis://", "redis://:1", "redis://a:0", "redis://a:70000", "redis://a,,b", "redis://u:p@"]
)
def test_a_wrong_url_is_said(text: str) -> None:
    with pytest.raises(BadInput, match="does not name a Redis cluster") as caught:
        RedisUrl.parse(text)
    assert "u:p" not in str(caught.value)
