"""A program of torch.export as data: nodes that name operators, run one after the other.

``torch.export.load`` takes names in the file for Python functions, evaluates expressions and guards that are text,
writes Python source with names of the file in it, and falls back to pickle. Nothing of that is here: an operator is one
of ``OPERATORS`` or the program is refused; all else in it is a number, the name of a value, or is not read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCHEMA_MAJOR = 8  # of the JSON that torch.export writes
INT64 = range(-(2**63), 2**63)
STRIDED = 7
TYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64},
    **{6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
# What models compute with. None reads or writes a file, takes a function, or sees memory that is not its own.
ATEN = """
    __and__.Scalar __and__.Tensor __or__.Tensor __rshift__.Scalar __xor__.Tensor _assert_tensor_metadata.default
    abs.default add.Scalar add.Tensor addmm.default alias.default amax.default amin.default arange.default arange.start
    argmax.default argsort.default baddbmm.default batch_norm.default bitwise_and.Tensor bitwise_not.default
    bitwise_or.Tensor bmm.default cat.default chunk.default clamp.default clamp_max.default clamp_min.default
    clone.default contiguous.default cos.default cosine_similarity.default cumsum.default detach.default
    div.Scalar div.Tensor elu.default embedding.default eq.Scalar eq.Tensor exp.default expand.default
    expand_as.default expm1.default flatten.using_ints flip.default floor.default floor_divide.default
    full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default gt.Scalar gt.Tensor
    index.Tensor index_add.default index_add_.default index_copy.default index_select.default isnan.default
    layer_norm.default le.Scalar le.Tensor leaky_relu.default linalg_vector_norm.default linear.default
    log.default log1p.default log_sigmoid.default log_softmax.int logical_and.default logical_not.default
    logical_or.default logsumexp.default lt.Scalar lt.Tensor masked_fill.Scalar matmul.default max.default
    max.dim maximum.default mean.default mean.dim min.default min.dim minimum.default mm.default mul.Scalar
    mul.Tensor ne.Scalar ne.Tensor neg.default new_full.default new_ones.default new_zeros.default
    numpy_T.default one_hot.default ones.default ones_like.default permute.default pow.Tensor_Scalar
    pow.Tensor_Tensor prelu.default reciprocal.default relu.default remainder.Scalar remainder.Tensor
    reshape.default rsqrt.default rsub.Scalar scatter_add.default scatter_reduce.two select.int sigmoid.default
    sign.default silu.default sin.default slice.Tensor softmax.int softplus.default split.Tensor
    split_with_sizes.default sqrt.default square.default squeeze.dim squeeze.default stack.default sub.Scalar
    sub.Tensor sum.default sum.dim_IntList sym_size.int t.default take.default tanh.default to.dtype
    topk.default transpose.int unbind.int unsqueeze.default view.default where.Scalar where.ScalarOther
    where.ScalarSelf where.self zeros.default zeros_like.default
"""


def _whole(value: Any) -> int:
    """The value, if it is an integer that a tensor's size could be: Python's own have no end, and take all memory."""
    if type(value) is not int or value not in INT64:
        raise ValueError(f"its program has {str(value)[:80]!r} where an integer of 64 bits belongs")
    return value


def _of_sizes(name: str) -> Callable[..., int]:
    """Python's operator for what programs use it for, sizes; of text, lists and tensors it would make anything."""
    apply = getattr(operator, name)
    return lambda *values: _whole(apply(*map(_whole, values)))


def _operators() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        f"_operator.{name}": _of_sizes(name) for name in ("add", "floordiv", "mod", "mul", "neg", "sub")
    }
    for name in ATEN.split():
        packet, _, overload = name.partition(".")
        found[f"torch.ops.aten.{name}"] = getattr(getattr(torch.ops.aten, packet), overload)
    return found


OPERATORS = _operators()


@dataclass(frozen=True)
class _Name:
    """The value of an earlier node, or of an input."""

    name: str


@dataclass(frozen=True)
class _Node:
    run: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    results: list[str]
    several: bool  # whether the operator gives a list
    last_used: list[str]  # values that nothing needs after this node


class Program:
    """Named tensors to one tensor.

    Args:
        document: what ``models/model.json`` holds.
        tensors: weights and buffers by name.
        inputs: names of the inputs, in the order in which the program takes them.

    Attributes:
        inputs: as given.

    Raises:
        ValueError: it has an operator that is not in ``OPERATORS``, or an argument that no exported model has.
        Exception: of any other kind, it is no such program.
    """

    def __init__(self, document: dict[str, Any], tensors: Mapping[str, Tensor], inputs: list[str]):
        if (major := document["schema_version"]["major"]) != SCHEMA_MAJOR:
            raise ValueError(f"its program is of format {major}, and this release reads {SCHEMA_MAJOR}: export again")
        module = document["graph_module"]
        self.inputs = tuple(inputs)
        self._fixed: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}
        self._bind(module["signature"]["input_specs"], tensors, inputs)
        (output,) = module["graph"]["outputs"]
        self._output: str = output["as_tensor"]["name"]
        self._nodes = _with_last_uses([_node(node) for node in module["graph"]["nodes"]], keep=self._output)

    def _bind(self, specs: list[dict[str, Any]], tensors: Mapping[str, Tensor], inputs: list[str]) -> None:
        waiting = iter(inputs)
        for spec in specs:
            ((kind, fields),) = spec.items()
            if kind in ("parameter", "buffer"):
                self._fixed[fields["arg"]["name"]] = tensors[fields[f"{kind}_name"]]
            elif kind == "user_input" and (name := next(waiting, None)):
                self._inputs[fields["arg"]["as_tensor"]["name"]] = name
            else:
                raise ValueError(f"its program has inputs of kind {kind!r} that its description lacks")
        if left := list(waiting):
            raise ValueError(f"its program does not take {left[0]!r}")

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Run it.

        Raises:
            Exception: of any kind, the inputs, or its operators, do not fit.
        """
        values = self._fixed | {own: inputs[name] for own, name in self._inputs.items()}
        for node in self._nodes:
            args = [_resolved(arg, values) for arg in node.args]
            found = node.run(*args, **{name: _resolved(arg, values) for name, arg in node.kwargs.items()})
            values.update(zip(node.results, found if node.several else (found,), strict=bool(node.results)))
            for name in node.last_used:
                del values[name]
        return values[self._output]


def _resolved(arg: Any, values: dict[str, Any]) -> Any:
    if isinstance(arg, _Name):
        return values[arg.name]
    return [_resolved(one, values) for one in arg] if isinstance(arg, list) else arg


def _node(node: dict[str, Any]) -> _Node:
    if node["target"] not in OPERATORS:
        raise ValueError(f"its program uses {node['target']!r}, which is not in OPERATORS of trainer/export/program.py")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for given in node["inputs"]:
        if given["kind"] == 1:  # by position
            args.append(_argument(given["arg"]))
        else:
            kwargs[str(given["name"])] = _argument(given["arg"])
    kinds = [kind for output in node["outputs"] for kind in output]
    several = kinds == ["as_tensors"] or len(kinds) > 1
    results = [_value(name) for output in node["outputs"] for kind in output.values() for name in _listed(kind)]
    return _Node(OPERATORS[node["target"]], args, kwargs, [value.name for value in results], several, [])


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _value(found: dict[str, Any]) -> _Name:
    (name,) = (found[key] for key in ("name", "as_name") if key in found)
    return _Name(str(name))


def _value_or_size(found: dict[str, Any]) -> _Name | int:
    return _whole(found["as_int"]) if "as_int" in found else _value(found)


SCALARS: dict[str, Callable[[Any], Any]] = {
    "as_int": _whole,
    "as_float": float,  # infinity is text in JSON
    "as_bool": bool,
    "as_string": str,
}


def _argument(arg: dict[str, Any]) -> Any:
    """A number, a type, or the name of a value, or a list of those."""
    ((kind, value),) = arg.items()
    if kind in SCALARS:
        return SCALARS[kind](value)
    if (of_each := kind.removesuffix("s")) in SCALARS:
        return [*map(SCALARS[of_each], value)]
    if kind in ("as_tensor", "as_sym_int"):
        return _value_or_size(value)
    if kind in ("as_tensors", "as_sym_ints"):
        return [*map(_value_or_size, value)]
    if kind == "as_optional_tensors":
        return [None if "as_none" in one else _value(one["as_tensor"]) for one in value]
    if kind == "as_none":
        return None
    if kind == "as_scalar_type":
        return TYPES[value]
    if kind == "as_device" and value["type"] == "cpu":
        return torch.device("cpu")
    if kind == "as_layout" and value == STRIDED:
        return torch.strided
    raise ValueError(f"its program has an argument of kind {kind!r} that no exported model has: {str(value)[:80]}")


def _with_last_uses(nodes: list[_Node], keep: str) -> list[_Node]:
    """The nodes, each with the values that are used there for the last time, so that they are given up."""
    seen = {keep}
    for node in reversed(nodes):
        for name in (*node.results, *_names([*node.args, *node.kwargs.values()])):
            if name not in seen:
                seen.add(name)
                node.last_used.append(name)
    return nodes


def _names(found: Any) -> list[str]:
    if isinstance(found, _Name):
        return [found.name]
    return [name for one in found for name in _names(one)] if isinstance(found, list) else []
