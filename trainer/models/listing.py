"""What the files of the models say of them, read without running them: torch takes seconds, and a list needs none."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from crossmedia.trainer.models.registry import MODELS, model_class, options_of


class About(NamedTuple):
    """A model for who chooses one: the first line of its docstring, its paper, and its options with their defaults."""

    about: str
    paper: str
    options: dict[str, Any]


def about(name: str) -> About:
    """What there is to say of the model of that name in ``MODELS``."""
    module, _, attribute = MODELS[name].partition(":")
    try:
        return _read(module, attribute)
    except (LookupError, ValueError, OSError):  # a default that is computed, or a class that is made: it has to run
        cls = model_class(name)
        return About((cls.__doc__ or "").splitlines()[0], cls.paper, options_of(name))


def _read(module: str, name: str) -> About:
    """A class in a module.

    Raises:
        LookupError: there is no such class in its file, or no file.
        ValueError: a default or the paper is no literal.
    """
    tree = _tree(module)
    cls = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if cls is None:
        raise LookupError(f"{module} defines no class {name}")
    origin = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    paper = ""
    options: dict[str, Any] = {}
    for base in cls.bases:
        if isinstance(base, ast.Name):  # nn.Module is none
            inherited = _read(*origin.get(base.id, (module, base.id)))
            paper, options = inherited.paper, options | inherited.options
    for node in cls.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["paper"]:
            paper = ast.literal_eval(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            options |= {argument.arg: ast.literal_eval(default) for argument, default in given if default is not None}
    return About((ast.get_docstring(cls) or "").partition("\n")[0], paper, options)


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no file of {module}")
    return ast.parse(Path(spec.origin).read_text())
