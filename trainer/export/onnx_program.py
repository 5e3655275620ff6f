"""A model as an ONNX file, which others run in any language; here onnxruntime runs it.

The file is whole: weights beside it (external data) are refused, because their paths could name any file. It names
operators of the standard alone, so that no extension is looked for. Behind all else it has the digest of what stands
before, as one more entry of its metadata: protobuf reads what is appended to a message as part of it, and neither it
nor onnxruntime notices a bit of a weight that has changed. Who can write the file can write the digest, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from google.protobuf.message import Message
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.trainer.export.tracing import Traced, without_warnings
from crossmedia.trainer.export.unusable import Unusable
from crossmedia.trainer.runs.sealed import DIGEST

if TYPE_CHECKING:
    import onnx

START = b"\x08"  # the version of the format, which comes first
STANDARD = ("", "ai.onnx")
OUTPUT = "probability"
MAX_BYTES = (1 << 31) - 1  # of a message of protobuf
FATAL = 4  # what onnxruntime prints of itself; errors are raised


def written(traced: Traced, files: Mapping[str, str]) -> bytes:
    """A model as an ONNX file, with files as its metadata.

    Raises:
        BadInput: the extra is not installed, an operator has no counterpart, or the file would be too large.
    """
    try:
        import onnxscript  # noqa: F401  # of which torch makes the operators
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        with without_warnings():
            made = torch.onnx.export(traced.program, (traced.inputs,), dynamo=True, external_data=False, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        why = error.__cause__ or error
        raise BadInput(f"The model cannot be written as ONNX: {str(why)[:300]}. Export it as pt2.") from error
    assert made is not None
    graph = made.model.graph
    for value, name in zip(graph.inputs, traced.inputs, strict=True):
        value.name = name
    graph.outputs[0].name = OUTPUT
    proto: onnx.ModelProto = made.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # where in the code it comes from, with folders of this machine
    for name, text in files.items():
        proto.metadata_props.add(key=name, value=text)
    if proto.ByteSize() + len(_seal(b"")) > MAX_BYTES:
        raise BadInput(f"The model takes {proto.ByteSize()} bytes, and an ONNX file ends at 2 GiB. Export it as pt2.")
    return sealed(proto.SerializeToString())


def sealed(model: bytes) -> bytes:
    """An ONNX file with the digest of its content behind it, which is part of its metadata."""
    return model + _seal(model)


def _check_seal(data: bytes) -> None:
    """Refuse a file that has changed since ``sealed``.

    Raises:
        ValueError: it has.
    """
    size = len(_seal(b""))
    if data[-size:] != _seal(data[:-size]):
        raise ValueError("its digest is missing, or that of another content: it is damaged, or was changed")


def _seal(model: bytes) -> bytes:
    import onnx

    digest = onnx.StringStringEntryProto(key=DIGEST, value=hashlib.sha256(model).hexdigest())
    return onnx.ModelProto(metadata_props=[digest]).SerializeToString()


def _not_installed(error: ImportError) -> Unusable:
    return Unusable(f'ONNX files need {error.name}. Install it with: pip install "crossmedia[onnx]"')


class OnnxProgram:
    """An ONNX file that ``written`` made, checked and ready to run.

    Args:
        data: of the file.

    Attributes:
        files: that it holds as its metadata.

    Raises:
        Unusable: the extra is not installed.
        ValueError: it has changed since it was written, or has weights elsewhere, operators of others, or more than one
            output.
        Exception: of any other kind, it is no such file.
    """

    def __init__(self, data: bytes):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise _not_installed(error) from error
        _check_seal(data)
        proto = onnx.ModelProto.FromString(data)
        _check(proto)
        self.files = {entry.key: entry.value.encode() for entry in proto.metadata_props}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Run it.

        Raises:
            Exception: of any kind, the inputs, or its operators, do not fit.
        """
        (found,) = self._session.run(None, {name: inputs[name].numpy() for name in self.inputs})
        return torch.from_numpy(found)


def _check(proto: onnx.ModelProto) -> None:
    """Refuse what no exported model has.

    Raises:
        ValueError: see the class.
    """
    import onnx

    if proto.functions or len(proto.graph.output) != 1:
        raise ValueError("it has functions of its own, or several outputs")
    for message in _messages(proto):
        if isinstance(message, onnx.TensorProto) and (message.data_location or message.external_data):
            raise ValueError(f"the weights {message.name[:80]!r} lie in another file, which is never read")
        if isinstance(message, onnx.NodeProto) and message.domain not in STANDARD:
            raise ValueError(
                f"it uses {message.op_type[:80]!r} of {message.domain[:80]!r}, which is not of the standard"
            )


def _messages(message: Message) -> Iterator[Message]:
    """A message of protobuf and all that it holds, however deep."""
    waiting: list[Message] = [message]
    while waiting:
        yield (one := waiting.pop())
        for field, value in one.ListFields():
            if field.message_type is not None:
                waiting += [value] if isinstance(value, Message) else value
