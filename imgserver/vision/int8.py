"""Nets whose convolutions and products are of 8 bits: made once on photos, kept as one file, run by OpenVINO.

    efficientnet_lite0#int8            calibrated on a catalogue by precompute, and kept in its store
    efficientnet_lite0#int8@<hash>     one that was, in the store's folder ``encoders``
    efficientnet_lite0#int8:FILE       one that was, from a file

NNCF watches what numbers photos make in each layer, and chooses which range of them 8 bits stand for. Another set of
photos gives another net, so the file is the version, and a machine that is to compute the same features gets the file.
It holds OpenVINO's graph, the arrays ``graph`` (its XML) and ``weights``: no code, and nothing that is run.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.store import ENCODERS
from crossmedia.imgserver.vision.backbone import INT8, NVJPEG, Backbone
from crossmedia.imgserver.vision.decode import Pixels
from crossmedia.imgserver.vision.openvino_runtime import runtime
from crossmedia.version import HASH_DIGITS

CALIBRATED_ON, LEAST = 300, 32  # photos: NNCF's own number, and those without which ranges are chance
FORM = re.compile(rf"(?P<net>.+?){INT8}(?:@(?P<hash>[0-9a-f]{{{HASH_DIGITS}}})|:(?P<file>.+))?")
ATTENTION = {"Softmax", "ScaledDotProductAttention"}  # operators of transformers, whose ranges are chosen otherwise
MULTIPLIES = {"avx512_vnni", "avx_vnni", "amx_int8"}  # processors add products of 8 bits in 32 with these


@dataclass(frozen=True)
class Int8Name:
    """How a recipe that ends in ``#int8`` names its net, taken apart.

    Attributes:
        net: recipe of the net in float32.
        hash: of the file in a store; empty: none is named.
        file: path of one; empty: none is named.
    """

    net: str
    hash: str = ""
    file: str = ""

    @classmethod
    def parse(cls, recipe: str) -> Int8Name | None:
        """The parts of a recipe; None where it is of another kind."""
        found = FORM.fullmatch(recipe)
        return cls(found["net"], found["hash"] or "", found["file"] or "") if found else None


def int8_backbone(plain: Backbone, named: Int8Name, store: Path | None) -> Backbone:
    """A net as its calibrated file has it.

    Args:
        plain: the net in float32.
        named: which file.
        store: folder whose own files may be named.

    Raises:
        BadInput: no file is named, or it cannot be read; or the net is one that cannot be calibrated.
        StoreError: the store's file has gone, or is damaged.
    """
    check_plain(plain, named)
    if named.hash and store is not None:
        path, recipe = in_store(store, named.hash), f"{plain.recipe}{INT8}@{named.hash}"
        remedy = "Copy it from another copy of the store or a backup, or precompute the photos into a new store."
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"The calibrated net {path} is missing: {error.strerror}. {remedy}") from error
        if digest(data) != named.hash:
            raise StoreError(f"The calibrated net {path} is damaged: it is not what was written. {remedy}")
    elif named.file:
        path = Path(named.file).expanduser().resolve()
        recipe = f"{plain.recipe}{INT8}:{path}"
        read_file(path)
    else:
        said = f"{plain.recipe}{INT8}"
        raise BadInput(
            f"{said} is calibrated on photos. 'imgserver precompute' does that for its store; anywhere else name the "
            f"file that it keeps there: {said}:STORE/{ENCODERS}/int8@....safetensors."
        )
    return replace(plain, recipe=recipe, weights=(*plain.weights, path), int8=path)


def check_plain(plain: Backbone, named: Int8Name) -> None:
    """Refuse what has no form in 8 bits.

    Raises:
        BadInput: it computes in another format, or a GPU decodes for it.
    """
    if plain.bf16 or plain.tf32 or plain.int8:
        raise BadInput(f"{named.net}{INT8} names more than one format of numbers. Give one.")
    if plain.preprocessing.jpeg != "pillow":
        raise BadInput(f"{named.net}{INT8} runs on the CPU, where no GPU decodes its JPEGs. Leave out {NVJPEG}.")


def in_store(store: Path, name: str) -> Path:
    """Where a store keeps the file of that hash."""
    return store / ENCODERS / f"int8@{name}.safetensors"


def keep(store: Path, data: bytes) -> str:
    """Put a calibrated net into a store; return its hash.

    Raises:
        StoreError: it cannot be written.
    """
    with replacing(in_store(store, name := digest(data))) as part:
        part.write_bytes(data)
    return name


def digest(data: bytes) -> str:
    """What tells one calibrated net from another: the beginning of the SHA-256 of its file."""
    return hashlib.sha256(data).hexdigest()[:HASH_DIGITS]


def read_file(path: Path) -> dict[str, bytes]:
    """OpenVINO's graph and its weights.

    Raises:
        BadInput: the file cannot be read, or holds something else.
    """
    try:
        found = load(path.read_bytes())
        return {name: np.ascontiguousarray(found[name]).tobytes() for name in ("graph", "weights")}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{path} is no net that was calibrated for {INT8}: {str(error)[:200]}.") from error


def check_processor(recipe: str) -> None:
    """Refuse to compute where products of 8 bits are added in 16, which are too few: features are others there.

    Raises:
        BadInput: this processor has no instructions for it.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    if not flags & MULTIPLIES:
        raise BadInput(
            f"{recipe} needs a processor that adds products of 8 bits in 32 (VNNI: AVX-512 VNNI, AVX-VNNI or AMX). "
            f"Others give other features, and are hardly faster so. Take the name without {INT8}."
        )


def quantized(model: Any, pixels: Pixels, name: str) -> bytes:
    """The file of a net whose ranges were chosen on photos.

    Args:
        model: OpenVINO's graph in float32.
        pixels: of photos, uint8, shape (n, size, size, 3).
        name: of the net, for messages.

    Raises:
        BadInput: NNCF is not installed, the photos are too few, or it cannot do it with this net.
    """
    if len(pixels) < LEAST:
        raise BadInput(
            f"{name}{INT8} is calibrated on {LEAST} photos or more, and {len(pixels)} can be read. Add photos, take "
            f"a net that was calibrated elsewhere ({name}{INT8}:FILE), or leave out {INT8}."
        )
    nncf = _nncf()
    from nncf.quantization.advanced_parameters import OverflowFix

    kinds = {operator.get_type_name() for operator in model.get_ops()}
    try:
        with _silent():
            made = nncf.quantize(
                model,
                nncf.Dataset([one[None] for one in pixels]),
                subset_size=len(pixels),
                model_type=nncf.ModelType.TRANSFORMER if kinds & ATTENTION else None,
                # All 8 bits of weights: with one less (nncf's way for older processors) cosines are .982, not .993.
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
            )
    except Exception as error:  # each of its steps raises its own
        raise BadInput(f"NNCF cannot calibrate {name}: {type(error).__name__}: {str(error)[:300]}") from error
    return _to_bytes(made)


def _to_bytes(model: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="crossmedia-int8-") as folder:
        graph = Path(folder, "net.xml")
        runtime().save_model(model, graph, compress_to_fp16=False)
        arrays = {
            name: np.frombuffer(file.read_bytes(), dtype=np.uint8)
            for name, file in (("graph", graph), ("weights", graph.with_suffix(".bin")))
        }
    data: bytes = save(arrays)
    return data


def _nncf() -> Any:
    runtime()  # as it is imported there: nobody is told of what is done here
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise BadInput(f'{INT8} needs nncf ({error}). Install it with: pip install "crossmedia[int8]"') from error
    return nncf


@contextmanager
def _silent() -> Iterator[None]:
    """NNCF reports each step to the terminal."""
    log = logging.getLogger("nncf")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        log.setLevel(before)
