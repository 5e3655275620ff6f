"""Scores as a reply of the protocol, and what a model takes and gives as its metadata.

Legend: C candidates, r reasons of each.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from crossmedia.errors import InvalidRequest, did_you_mean
from crossmedia.features.columns import ACTION, IMAGE
from crossmedia.features.reading.request import RequestColumns
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.answers import Answer
from crossmedia.trainer.reasons.explained import Explained
from crossmedia.trainer.serving.tensors import BYTES, Output, add_output, short

SCORE, STATUS = "score", "status"
REASONS = {"reason_term": (BYTES, [-1, -1]), "reason_value": ("FP32", [-1, -1]), "sentence": (BYTES, [-1])}


def score_names(labels: Iterable[str]) -> list[str]:
    """``score`` of the first label, ``score_<label>`` of the others."""
    return [SCORE if not number else f"{SCORE}_{label}" for number, label in enumerate(labels)]


def reply_of(
    request: pb.ModelInferRequest, answer: Answer, labels: tuple[str, ...], version: str, vectors: str
) -> pb.ModelInferResponse:
    """The reply to a request.

    Args:
        request: as it came.
        answer: scores of its candidates.
        labels: of the model.
        version: of the model.
        vectors: version of the vectors that it was given.

    Raises:
        InvalidRequest: it asks for an output that there is not.
    """
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    if vectors:
        reply.parameters["vectors"].string_param = vectors
    outputs: dict[str, Output] = {
        name: np.ascontiguousarray(answer.probabilities[:, number]) for number, name in enumerate(score_names(labels))
    }
    outputs[STATUS] = answer.status
    if answer.explained:
        outputs |= _reasons(answer.explained)
    for name in [output.name for output in request.outputs] or [*outputs]:
        if name not in outputs:
            hint = " Reasons come where the parameter reasons asks for them." if name in REASONS else ""
            raise InvalidRequest(
                f"There is no output {short(name)}.{did_you_mean(name[:60], outputs)} This request has: "
                f"{', '.join(outputs)}.{hint}"
            )
        add_output(reply, name, outputs[name])
    return reply


def _reasons(explained: Explained) -> dict[str, Output]:
    """Terms and contributions of each candidate, those that count most first; padded with nothing and 0."""
    most = max((len(of_one) for of_one in explained.reasons), default=0)
    terms = [[reason.term for reason in of_one] + [""] * (most - len(of_one)) for of_one in explained.reasons]
    values = np.zeros((len(terms), most), dtype=np.float32)
    for row, of_one in enumerate(explained.reasons):
        values[row, : len(of_one)] = [reason.contribution for reason in of_one]
    return {"reason_term": terms, "reason_value": values, "sentence": explained.sentences}


def metadata_of(
    name: str, versions: Iterable[str], columns: RequestColumns, labels: tuple[str, ...], reasons: bool
) -> pb.ModelMetadataResponse:
    """What a model takes and gives: every input may be left out, but one of the candidates'.

    Ids may also be whole numbers of any type, numbers of any type of number, and cells of lists have a second size.
    """
    told = pb.ModelMetadataResponse(name=name, versions=versions, platform="crossmedia")
    numbers = {*columns.numbers, *columns.item_numbers}
    for column in columns.of_candidates:
        told.inputs.add(name=column, datatype=_datatype(column, numbers), shape=[-1])
    for column in columns.of_rows:
        told.inputs.add(name=column, datatype=_datatype(column, numbers), shape=[-1 if column in columns.of_log else 1])
    for column in columns.behaviours:
        told.inputs.add(name=column, datatype=_datatype(column.removeprefix("hist_"), numbers), shape=[-1])
    for output in score_names(labels):
        told.outputs.add(name=output, datatype="FP32", shape=[-1])
    told.outputs.add(name=STATUS, datatype="UINT8", shape=[-1])
    for output, (datatype, shape) in REASONS.items() if reasons else ():
        told.outputs.add(name=output, datatype=datatype, shape=shape)
    return told


def _datatype(column: str, numbers: set[str]) -> str:
    if column in numbers:
        return "FP32"
    return "INT64" if column in (IMAGE, "time") and column != ACTION else BYTES
