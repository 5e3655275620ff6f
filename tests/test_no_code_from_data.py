"""Nothing that is read can run code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from conftest import ROOT

CALLS = (
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "torch.export.load",
    "yaml.load",
    "yaml.unsafe_load",
)


# torch.distributed sends objects by pickle.
CALLS_OF_ANYTHING = ("read_pickle", "extractall", "gather_object", "broadcast_object_list", "scatter_object_list")


LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls and imports that could run what a file or a peer holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            yield f"{node.lineno}: from {node.module}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in LOADERS and node.attr != "UnpicklingError":
            yield f"{node.lineno}: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in CALLS or name.endswith(CALLS_OF_ANYTHING):
            yield f"{node.lineno}: {name}"
        if name == "torch.load" and words.get("weights_only") != "True":
            yield f"{node.lineno}: {name} without weights_only=True"
        if words.get("allow_pickle", "False") != "False" or words.get("shell", "False") != "False":
            yield f"{node.lineno}: {name} with {words}"


@pytest.mark.parametrize("package", ["imgserver", "features", "trainer"])
def test_no_code_is_loaded_from_data(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{what}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for what in unsafe(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "from pickle import loads",
        "import pickle\npickle.loads(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "tar.extractall(p)",
        "dist.all_gather_object(a, b)",
    ],
)
def test_the_search_for_such_code_finds_it(code: str) -> None:
    assert list(unsafe(ast.parse(code)))
