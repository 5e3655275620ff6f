"""Replies on heads that learn become values here, every field checked as in ``replies.py``."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.client.failures import broken
from crossmedia.imgserver.client.replies import finite
from crossmedia.v1 import image_server_pb2 as pb

Gradient = dict[str, npt.NDArray[np.float32]]


def gradient(reply: pb.GetHeadGradientResponse, version: str, weights: bytes, server: str) -> Gradient:
    """The gradient of each weight of a head.

    Args:
        reply: as it came.
        version: of the head.
        weights: of the head, as a block of safetensors.
        server: its address.

    Raises:
        ServerFault: another version, other names or shapes, a dtype that is not fp32, or a number that is not finite.
    """
    from safetensors import SafetensorError, deserialize  # who has a head has it

    if reply.version != version:
        raise broken(server, f"the gradient of {version} was asked for, version is {reply.version!r}")
    try:
        tensors = dict(deserialize(reply.gradient))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise broken(server, f"gradient is no block of safetensors ({error})") from None
    shapes = _shapes(weights)
    if set(tensors) != set(shapes):
        raise broken(server, f"gradient holds {sorted(tensors)}, and the head's weights are {sorted(shapes)}")
    found: Gradient = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if (tensor["dtype"], tuple(tensor["shape"])) != ("F32", tuple(shape)):
            raise broken(
                server,
                f"the gradient of {name} is of {tensor['dtype']} and shape {tensor['shape']}, its weight of F32 and "
                f"{list(shape)}",
            )
        found[name] = np.frombuffer(tensor["data"], dtype="<f4").reshape(tuple(shape))
        if not finite(found[name]):
            raise broken(server, f"the gradient of {name} holds a number that is not finite")
    return found


def held(reply: pb.PutHeadResponse, version: str, server: str) -> None:
    """Check that a head is held under the version that it was put as.

    Raises:
        ServerFault: it is another.
    """
    if reply.version != version:
        raise broken(server, f"a head was put as {version}, version is {reply.version!r}")


def _shapes(weights: bytes) -> dict[str, list[int]]:
    """The shape of each tensor of a block of safetensors, which begins with the length of a header in JSON."""
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
