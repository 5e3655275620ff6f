"""Rules over columns of a log: which rows are positive, and which are behaviours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.toml_table import TomlTable
from imgserver.errors import BadInput
from imgserver.keys import Column

ALL = "all"
_RULE = re.compile(r"^\s*([^<>=]+?)\s*(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?)\s*$")
_NUMBER = r"^(?:[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|NaN)$"
_COMPARE = {
    ">=": pc.greater_equal,
    ">": pc.greater,
    "<=": pc.less_equal,
    "<": pc.less,
    "==": pc.equal,
}


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
    number: float = 0.0

    def holds(self, column: Column) -> npt.NDArray[np.bool_]:
        """In which rows it holds, shape (rows,).

        Args:
            column: the log's ``column``.

        Raises:
            BadInput: the column holds no numbers, a cell is empty or NaN, or a plain label is neither 0 nor 1.
        """
        column = column.plain()
        values, kind = column.values, column.values.type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        what = f"a label is 0 or 1, and a rule compares numbers.{self._advice()}"
        if pa.types.is_string(kind):
            if (bad := np.asarray(pc.fill_null(pc.invert(pc.match_substring_regex(values, _NUMBER)), False))).any():
                raise column.wrong(bad, what)
        elif not (numeric or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise column.of_type(what)
        numbers = np.asarray(pc.cast(values, pa.float64(), safe=False))  # a null is NaN here
        if (empty := np.isnan(numbers)).any():
            raise BadInput(
                f"The label column {column.name!r} of {column.where} is empty in row {column.row(empty)}, or holds "
                f"NaN; a row without a value is neither positive nor negative. Leave such rows out of the log."
            )
        if self.operator:
            positive: Any = _COMPARE[self.operator](pa.array(numbers), self.number)
            return np.asarray(positive, dtype=np.bool_)
        bad = (numbers != 0) & (numbers != 1)
        if bad.any():
            raise column.wrong(bad, f"a label is 0 or 1.{self._advice()}")
        positives: npt.NDArray[np.bool_] = numbers == 1
        return positives

    def _advice(self) -> str:
        return "" if self.operator else f' For a rating write a rule, such as like = "{self.column} >= 4"'


def take_rules(table: TomlTable, key: str, *, columns: bool) -> dict[str, Rule]:
    """Rules by name; with ``columns`` a name alone is a column of 0 and 1, without it ``ALL`` is every row.

    Raises:
        BadInput: one is no rule.
    """
    found = {}
    for name, text in table.take(key, dict, {}).items():
        match = _RULE.match(text) if isinstance(text, str) else None
        if match:
            found[name] = Rule(match[1], match[2], float(match[3]))
        elif text == ALL and not columns:
            found[name] = Rule("", ALL)
        elif columns and isinstance(text, str) and text.strip() and not re.search("[<>=]", text):
            found[name] = Rule(text)
        else:
            raise table.fail(f'{key}.{name} is {text!r}; write a rule such as "rating >= 4".')
    return found
