"""What a caller asks for who has a model replaced: the parameters of ``RepositoryModelLoad``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossmedia.errors import InvalidRequest, did_you_mean
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.serving.tensors import short

KINDS = {
    **dict.fromkeys(("file", "canary", "trust_native"), "string_param"),
    **dict.fromkeys(("shadow", "rollback"), "bool_param"),
}
MUST = {
    **{"file": "the name of a model", "canary": "a share such as 5%", "shadow": "true", "rollback": "true"},
    "trust_native": "the sha256 digest of the file",
}


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        file: of the new model; empty: the file of the one that is served.
        share: of the requests that it answers, from 0 (it runs beside) to 1; None: all, and the other is only kept.
        rollback: have the model before answer again.
        trust_native: digest of the file, if it may hold native code.
    """

    file: str = ""
    share: float | None = None
    rollback: bool = False
    trust_native: str = ""


def load_of(request: pb.RepositoryModelLoadRequest) -> Load:
    """Read a request.

    Raises:
        InvalidRequest: a parameter is unknown or of another kind, or two do not go together.
    """
    found = {}
    for name, parameter in request.parameters.items():
        if name not in KINDS:
            raise InvalidRequest(
                f"There is no parameter {short(name)} here.{did_you_mean(name[:60], KINDS)} Those that are read: "
                f"{', '.join(KINDS)}."
            )
        if parameter.WhichOneof("parameter_choice") != KINDS[name]:
            raise InvalidRequest(f"The parameter {name} must be {MUST[name]}.")
        if value := getattr(parameter, KINDS[name]):
            found[name] = value
    if "rollback" in found and len(found) > 1:
        raise InvalidRequest("A rollback takes no file and no share: it is to the model before.")
    if "canary" in found and "shadow" in found:
        raise InvalidRequest("A model answers a share of the requests (canary) or runs beside (shadow). Choose one.")
    share = share_of(found["canary"]) if "canary" in found else 0.0 if "shadow" in found else None
    return Load(found.get("file", ""), share, "rollback" in found, found.get("trust_native", ""))


def share_of(text: str) -> float:
    """``5%`` or ``0.05`` as a number.

    Raises:
        InvalidRequest: it is none above 0 and below 1.
    """
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise InvalidRequest(f"{short(text)} is no share of requests: write it as 5% or 0.05, above 0 and below 1.")
    return found


def beside(active: Path, file: str) -> Path | None:
    """Where a model lies that is to be loaded; None: where the active one does.

    Raises:
        InvalidRequest: it lies in another folder than the active one: callers name files of that folder alone.
    """
    if not file:
        return None
    path = active.parent / file
    if "\0" in file or path.name == ".." or path.parent.resolve() != active.parent.resolve():
        raise InvalidRequest(
            f"The model {short(file)} lies in another folder than the one that is served. Put it into {active.parent}."
        )
    return path
