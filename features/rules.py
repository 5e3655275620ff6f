"""Rules over columns of a log: which rows are positive, and which are behaviours."""

from __future__ import annotations

import operator as op
import re
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.toml_table import TomlTable
from crossmedia.keys import NOT_A_NUMBER, Column, exact_up_to

ALL = "all"
_RULE = re.compile(r"^\s*([^<>=]+?)\s*(>=|<=|==|>|<)\s*(-?\d{1,80}(?:\.\d{1,80})?)\s*$")
_NUMBER = r"^(?:[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|NaN)$"
_COMPARE = {">=": op.ge, ">": op.gt, "<=": op.le, "<": op.lt, "==": op.eq}
_ARROWS = {">=": pc.greater_equal, ">": pc.greater, "<=": pc.less_equal, "<": pc.less, "==": pc.equal}
_DIGITS = Context(prec=400)


@dataclass(frozen=True)
class Rule:
    """``column operator number``: which rows of the log count as positive.

    Attributes:
        column: of the log.
        operator: ``>=``, ``>``, ``<=``, ``<`` or ``==``; empty: the column itself holds 0 and 1; ``ALL``: every row.
        number: what the column is compared to.
    """

    column: str
    operator: str = ""
    number: Decimal = Decimal(0)

    def holds(self, column: Column) -> npt.NDArray[np.bool_]:
        """The rows in which the rule holds, shape (rows,).

        Numbers are compared as what they are: decimals as decimals, whole numbers exactly, and floats with the float of
        their width that is nearest to the rule's number, so that 4.1 is 4.1 in 32 bits too.

        Args:
            column: the log's ``column``.

        Raises:
            BadInput: the column holds no numbers, a cell is empty or NaN, a plain label is neither 0 nor 1, or a float
                is so large that it may be the rule's number or the next one.
        """
        column = self._numbers(column.plain())
        if self.operator:
            return _compared(column, self.operator, self.number)
        positives = _compared(column, "==", Decimal(1))
        bad = ~(positives | _compared(column, "==", Decimal(0)))
        if bad.any():
            raise column.wrong(
                bad, f'a label is 0 or 1. For a rating write a rule, such as like = "{self.column} >= 4"'
            )
        return positives

    def _numbers(self, column: Column) -> Column:
        """The column as numbers, every cell filled."""
        what = f"a rule such as {self.column} {self.operator} {self.number} compares numbers"
        values = as_numbers(column, what if self.operator else "a label is 0 or 1")
        if (empty := np.asarray(pc.is_null(values, nan_is_null=True))).any():
            raise BadInput(
                f"The label column {column.name!r} of {column.where} is empty in {column.row_said(empty)}, or holds "
                f"NaN; a row without a value is neither positive nor negative. Leave such rows out of the log."
            )
        return replace(column, values=values)


def as_numbers(column: Column, what: str) -> pa.Array:
    """A column as an Arrow array of numbers, of whatever type they are; null where the cell is empty.

    Raises:
        BadInput: it holds something else; ``what`` says why it should not.
    """
    column = column.plain()
    values, kind = column.values, column.values.type
    if pa.types.is_string(kind):
        values = pc.if_else(pc.is_in(values, value_set=pa.array(["", *NOT_A_NUMBER])), None, values)
        if (bad := np.asarray(pc.fill_null(pc.invert(pc.match_substring_regex(values, _NUMBER)), False))).any():
            raise column.wrong(
                bad, f"{what}. Write numbers for words, 1 for yes and 0 for no, and nothing where there is none"
            )
        values = pc.cast(values, pa.float64())
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        values = pc.cast(values, pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise column.of_type(f"{what}. Write one number in each cell")
    return values


def _compared(column: Column, operator: str, number: Decimal) -> npt.NDArray[np.bool_]:
    """The rows in which ``column operator number`` holds; every cell is a number."""
    values, kind = column.values, column.values.type
    if pa.types.is_floating(kind):
        floats = values.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            nearest = floats.dtype.type(float(number))
        if abs(number) >= exact_up_to(kind) and (either := floats == nearest).any():
            raise column.wrong(
                either,
                f"{kind} does not tell it from the whole numbers beside it, one of which is the "
                f"rule's. Write such numbers as whole numbers or decimals, in Parquet",
            )
        return np.asarray(_COMPARE[operator](floats, nearest))
    scale = max(kind.scale, 0) if pa.types.is_decimal(kind) else 0
    below = number.quantize(Decimal(1).scaleb(-scale), ROUND_FLOOR, _DIGITS)  # what the column can hold
    if below != number:  # between two numbers of the column
        operator, number = {">=": ">", "<": "<=", "==": ""}.get(operator, operator), below
    if not operator:
        return np.zeros(len(values), dtype=np.bool_)
    if pa.types.is_integer(kind):
        return np.asarray(_COMPARE[operator](np.asarray(values), int(number)))
    most = Decimal(10).scaleb(75 - scale, _DIGITS)  # beyond it there is no number in the column
    wide = pa.decimal256(76, scale)
    shown = pc.cast(values, wide)
    return np.asarray(_ARROWS[operator](shown, pa.scalar(min(max(number, -most), most), wide)))


def take_rules(table: TomlTable, key: str, *, columns: bool) -> dict[str, Rule]:
    """Rules by name; with ``columns`` a name alone is a column of 0 and 1, without it ``ALL`` is every row.

    Raises:
        BadInput: one is no rule.
    """
    found = {}
    for name, text in table.take(key, dict, {}).items():
        match = _RULE.match(text) if isinstance(text, str) else None
        if match:
            found[name] = Rule(match[1], match[2], Decimal(match[3]))
        elif text == ALL and not columns:
            found[name] = Rule("", ALL)
        elif columns and isinstance(text, str) and text.strip() and not re.search("[<>=]", text):
            found[name] = Rule(text)
        else:
            raise table.fail(f'{key}.{name} is {text!r}; write a rule such as "rating >= 4".')
    return found
