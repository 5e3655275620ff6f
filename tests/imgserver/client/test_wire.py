"""Replies as bytes: the same as protobuf's, whoever wrote them, and never a crash."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.imgserver.wire import METHODS, VectorsReply, decode_reply, encode_reply, with_blocks
from crossmedia.v1 import image_server_pb2 as pb


@st.composite
def replies(draw: st.DrawFn) -> VectorsReply:
    rows, dim = draw(st.integers(0, 40)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from(["<f2", "<f4"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return VectorsReply(
        draw(st.text(max_size=20)),
        draw(st.integers(0, 2**64 - 1)),
        rng.standard_normal((rows, dim)).astype(dtype),
        rng.integers(0, 7, rows).astype(np.uint8),
        draw(st.integers(0, 2**32 - 1)),
        *(draw(st.integers(0, 2**64 - 1)) for _ in range(3)),
    )


def same(a: VectorsReply, b: VectorsReply) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.status, b.status)
    assert a.values.dtype == b.values.dtype
    for name in ("version", "generation", "computed", "server_time_ns", "queue_time_ns", "compute_time_ns"):
        assert getattr(a, name) == getattr(b, name)


@given(reply=replies())
def test_replies_are_what_protobuf_reads_and_writes(reply: VectorsReply) -> None:
    message = encode_reply(reply)
    same(reply, decode_reply(message))
    parsed = pb.GetVectorsResponse.FromString(message)
    assert parsed.vectors == reply.values.tobytes()
    assert parsed.status == reply.status.tobytes()
    assert parsed.version == reply.version
    same(reply, decode_reply(parsed.SerializeToString()))


def test_blocks_of_any_message_are_what_protobuf_reads() -> None:
    ids, cosines = np.arange(600, dtype="<i8").reshape(2, 300), np.ones((2, 300), "<f4")
    small = pb.SearchResponse(version="v", images=7)
    message = with_blocks(small, image_ids=ids[:, ::-1], cosines=cosines, status=np.ones(2, np.uint8))
    parsed = pb.SearchResponse.FromString(message)
    assert (parsed.version, parsed.images, parsed.status) == ("v", 7, b"\1\1")
    assert (parsed.image_ids, parsed.cosines) == (ids[:, ::-1].tobytes(), cosines.tobytes())


def test_fields_of_a_newer_server_are_passed_over() -> None:
    reply = VectorsReply("v", 1, np.ones((2, 3), "<f2"), np.ones(2, np.uint8))
    unknown = pb.PutImagesResponse(status=b"x" * 300)  # fields 1 to 3, moved behind by their number
    newer = encode_reply(reply) + b"\xfa\x01" + bytes([len(unknown.status) & 0x7F | 0x80, 2]) + unknown.status
    same(reply, decode_reply(newer))
    eight, four = b"\xf9\x01" + b"\xff" * 8, b"\xfd\x01" + b"\xff" * 4  # field 31 of a fixed width
    same(reply, decode_reply(eight + four + encode_reply(reply)))


@pytest.mark.parametrize("rows", [1, 63, 64, 8191, 8192, 1_048_576])
def test_blocks_whose_length_takes_one_to_four_bytes(rows: int) -> None:
    reply = VectorsReply("v", 1, np.arange(rows, dtype="<f2")[:, None], np.ones(rows, np.uint8))
    message = encode_reply(reply)
    assert pb.GetVectorsResponse.FromString(message).vectors == reply.values.tobytes()
    same(reply, decode_reply(message))


@given(message=st.binary(max_size=200))
def test_no_bytes_break_the_reader(message: bytes) -> None:
    with suppress(ValueError):  # any other exception fails
        found = decode_reply(message)
        assert found.values.ndim == 2
        assert found.status.ndim == 1


def test_a_number_without_an_end_is_given_up() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        decode_reply(b"\xff" * 1_000_000)


@given(reply=replies(), cut=st.integers(1, 50))
def test_a_reply_that_was_cut_off_is_refused(reply: VectorsReply, cut: int) -> None:
    message = encode_reply(reply)
    if cut <= len(reply.status):  # within the last field
        with pytest.raises(ValueError, match="ends within a field"):
            decode_reply(message[:-cut])


def test_the_calls_are_those_of_the_contract() -> None:
    service = pb.DESCRIPTOR.services_by_name["ImageService"]
    assert len(METHODS) == len(service.methods)
    for method in METHODS:
        told = service.methods_by_name[method.name]
        assert (told.input_type, told.output_type) == (method.request.DESCRIPTOR, method.reply.DESCRIPTOR)
        assert method.path == f"/crossmedia.v1.ImageService/{method.name}"
