"""Image ids in whatever holds them: tensors, arrays, lists, values with offsets, TorchRec's jagged tensors.

Legend: B rows of a batch, n ids of any shape, V values of lists of uneven length.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossmedia.errors import BadInput, InvalidRequest
from crossmedia.features.batch import Int64Array
from crossmedia.keys import NULL_IMAGE, column_of
from crossmedia.keys import image_ids as read_image_ids


@dataclass(frozen=True)
class IdArray:
    """Ids as they are asked for.

    Attributes:
        flat: shape (n,), int64, -1 where there is no image.
        shape: that they had; of lists of uneven length that of their values, (V,).
    """

    flat: Int64Array
    shape: tuple[int, ...]


def id_array(given: Any, name: str, where: str, null: int = NULL_IMAGE, offsets: Any = None) -> IdArray:
    """Read ids by the rule of ``crossmedia.keys``: whole numbers of any type; None and NaN are no image.

    Args:
        given: ids of any shape, or what has ``values()`` and ``offsets()``.
        name: of the column, for errors.
        where: it stands, likewise.
        null: the id that stands for no image, beside -1.
        offsets: shape (B,) or (B + 1,), where each list begins among 1-D values; None: there are none.

    Raises:
        InvalidRequest: they are no ids, or the offsets do not fit.
    """
    values, own_offsets = _parted(given)
    found = _array(values, name, where)
    for starts in (offsets, own_offsets):
        if starts is not None:
            _check_offsets(_array(starts, name, where), found.shape, f"The offsets of {name!r} in {where}")
    if not found.ndim:
        raise InvalidRequest(f"{name!r} in {where} is the one value {given!r}; give the ids of many rows at once.")
    if found.ndim > 1:
        where = f"{where}, whose ids of shape {found.shape} are counted row after row,"
    flat = found.reshape(-1)
    numbers = flat.dtype.kind in "iuf"
    none = flat == null if numbers else None
    if none is not None:
        flat = np.where(none, flat.dtype.type(0), flat)  # the null need not be an id
    try:
        ids = read_image_ids(column_of(flat.tolist() if flat.dtype.kind == "O" else flat, name, where))
    except BadInput as error:
        raise InvalidRequest(str(error)) from error
    ids = np.where(ids == null if none is None else none, NULL_IMAGE, ids)
    return IdArray(ids, found.shape)


def _parted(given: Any) -> tuple[Any, Any]:
    """Values and offsets; None in the place of offsets that there are not."""
    nested: Any = given if isinstance(given, Tensor) and given.is_nested else None
    if nested is not None and (nested.layout != torch.jagged or nested.lengths() is not None):
        return given, None  # which ``_array`` refuses
    if callable(getattr(given, "values", None)) and callable(getattr(given, "offsets", None)):
        return given.values(), given.offsets()
    return given, None


_ARRAYS = (Tensor, np.ndarray, list, tuple)
_BYTES = (bytearray, memoryview)


def _check_kinds(given: Any) -> None:
    """Refuse what NumPy makes numbers of, and nobody means as such: truth values beside numbers, and bytes."""
    if isinstance(given, _BYTES):
        raise TypeError(f"it is a {type(given).__name__}, whose bytes are no ids")
    if not isinstance(given, list | tuple):
        return
    kinds = set(map(type, given))
    if kinds & {bool, np.bool_}:
        raise TypeError("it holds True or False, which are no ids")
    if kinds & set(_BYTES):
        raise TypeError("it holds bytes, which are no ids")
    if kinds & set(_ARRAYS):
        for part in given:
            _check_kinds(part)
            if str(getattr(part, "dtype", "")) in ("bool", "torch.bool"):
                raise TypeError("it holds True or False, which are no ids")


def _check_nested(given: Tensor) -> None:
    """Refuse lists of uneven length whose values do not stand side by side, as offsets count them."""
    if given.is_nested:
        raise TypeError(
            "it is a nested tensor, of the strided layout or with gaps between its lists; of the jagged layout, "
            "torch.nested.nested_tensor(..., layout=torch.jagged), one is taken"
        )


def _array(given: Any, name: str, where: str) -> npt.NDArray[Any]:
    """An array in this process' memory."""
    try:
        _check_kinds(given)
        if isinstance(given, Tensor):
            _check_nested(given)
            return np.asarray(given.detach().cpu().numpy())
        if isinstance(given, np.ma.MaskedArray):
            plain = np.ma.getdata(given).astype(object)
            plain[np.ma.getmaskarray(given)] = None
            return plain
        if isinstance(given, Mapping | Set):
            raise TypeError(f"it is a {type(given).__name__}")
        if isinstance(given, tuple) and any(isinstance(part, _ARRAYS) for part in given):
            raise TypeError("it is a tuple of arrays, which may be values and offsets, or two columns")
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # as NumPy and PyTorch say what they cannot make an array of
        why = str(error).rstrip(".")
        raise InvalidRequest(
            f"{name!r} in {where} is no array of ids: {why}. Give ids of one shape, padded; or, for lists of uneven "
            f"length, all values in one row beside their offsets."
        ) from error


def _check_offsets(offsets: npt.NDArray[Any], shape: tuple[int, ...], what: str) -> None:
    """Refuse offsets that are not those of values of a shape."""
    wrong = ""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(shape) != 1:
        wrong = f"are of shape {offsets.shape} and {offsets.dtype}, for values of shape {shape}"
    elif not len(offsets) or offsets[0] != 0:
        wrong = "do not begin with 0"
    elif (falls := np.flatnonzero(offsets[1:] < offsets[:-1])).size:
        wrong = f"fall from {offsets[falls[0]]} to {offsets[falls[0] + 1]}"
    elif offsets[-1] > shape[0]:
        wrong = f"end at {offsets[-1]}, and there are {shape[0]} values"
    if wrong:
        raise InvalidRequest(
            f"{what} {wrong}. Offsets are whole numbers that say where each list begins among the values: they begin "
            f"with 0 and never fall."
        )
