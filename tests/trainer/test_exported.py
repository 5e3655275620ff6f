"""Exported models from strangers: read as data, whatever is in them; others load ours with PyTorch alone."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from exported_files import Parts, write
from made_samples import WITHOUT_HISTORIES, make_samples
from test_ladder import folder as ladder_folder  # noqa: F401

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.evaluate import predict
from crossmedia.trainer.export.archive import read_parts
from crossmedia.trainer.export.exported import SCHEMA, Exported, export_model
from crossmedia.trainer.export.tracing import flat
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.tensors import TensorBatch, to_tensors

PROGRAM, WEIGHTS, CONSTANTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)


@pytest.fixture(scope="module")
def good(ladder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("good")
    fit(FitConfig(str(ladder_folder / "samples"), str(out / "run"), images=False, epochs=1, batch_size=64, width=4))
    return export_model(out / "run", Samples(ladder_folder / "samples"), out / "good.pt2")


@pytest.fixture
def batch(ladder_folder: Path) -> TensorBatch:  # noqa: F811
    return to_tensors(next(Samples(ladder_folder / "samples").batches("test", 16)), torch.device("cpu"))


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[str]:
    """Python that leaves a mark; the test fails where the mark is there afterwards."""
    mark = tmp_path / "mark"
    yield f"__import__('os').mkdir('{mark}')"
    assert not mark.exists(), "code of the file was run"


def pickled(code: str) -> bytes:
    class Evil:
        def __reduce__(self) -> Any:
            return eval, (code,)

    block = io.BytesIO()
    torch.save(Evil(), block)
    return block.getvalue()


def edit(name: str, change: Callable[[Any], None]) -> Callable[[Parts], None]:
    def edited(parts: Parts) -> None:
        document = json.loads(parts[name])
        change(document)
        parts[name] = json.dumps(document).encode()

    return edited


def nodes(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"]


def test_others_load_it_with_torch_alone(good: Path, batch: TensorBatch, tmp_path: Path) -> None:
    torch.save(flat(batch, {}, Exported(good).inputs), tmp_path / "inputs.pt")
    code = """
import sys, torch
assert not any(name.split(".")[0] in ("trainer", "imgserver", "features") for name in sys.modules)
found = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2], weights_only=True))
torch.save(found.detach(), sys.argv[3])
"""
    files = [good, tmp_path / "inputs.pt", tmp_path / "found.pt"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *files], check=True, cwd=tmp_path)
    of_torch = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(of_torch, Exported(good).probabilities(batch, {}))


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("model", ["lr", "gbdt_lr", "embedding_mlp", "din", "dicm", "dien", "muse"])
def test_a_model_of_samples_without_histories_is_exported(tmp_path: Path, model: str, images: bool) -> None:
    folder = make_samples(tmp_path, 20, 200, {i: i for i in range(15)}, WITHOUT_HISTORIES)
    rng = np.random.default_rng(3)
    transport = MockTransport({i: rng.normal(size=8).astype(np.float16) for i in range(15)})
    run = FitConfig(str(folder), str(tmp_path / "run"), model=model, images=images, epochs=1, batch_size=64, width=4)
    fit(run, transport if images else None)
    samples, cpu = Samples(folder), torch.device("cpu")
    exported = Exported(export_model(run.out, samples, tmp_path / "model.pt2"))
    spaces = Spaces({"image": ImageHead(ImageClient(transport))} if images else {})
    of_run = pq.read_table(tmp_path / "run" / "predictions.parquet")["probability"].to_numpy()
    for size in (64, 7):
        assert predict(exported, Feed(samples, spaces, size, cpu), "test")[:, 0] == pytest.approx(of_run, abs=1e-5)


def never_read(code: str, mark: str) -> dict[str, Callable[[Parts], None]]:
    """Places whose text or pickle ``torch.export.load``, or the module that it makes, would run."""

    def shape(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        for value in graph["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code

    def spec(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps({"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []})
        tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}
        signature["in_spec"] = json.dumps([1, tree])

    return {
        "sample inputs": lambda parts: parts.update({"data/sample_inputs/model.pt": pickled(code)}),
        "shapes": edit(PROGRAM, shape),
        "guards": edit(PROGRAM, lambda document: document.update(guards_code=[code])),
        "tree": edit(PROGRAM, spec),
        "metadata": edit(PROGRAM, lambda document: nodes(document)[0]["metadata"].update(source_fn_stack=f"x,{mark}")),
        "ranges": edit(PROGRAM, lambda document: document["range_constraints"].update({code: {"min_val": 0}})),
    }


@pytest.mark.parametrize("place", never_read("", ""))
def test_what_is_not_read_changes_nothing(
    good: Path, batch: TensorBatch, tmp_path: Path, evil: str, place: str
) -> None:
    parts = read_parts(good.read_bytes())
    never_read(evil, "torch.os.abort")[place](parts)
    assert parts != read_parts(good.read_bytes())
    found = Exported(write(parts, tmp_path / "bad.pt2"))
    assert torch.equal(found.probabilities(batch, {}), Exported(good).probabilities(batch, {}))


def refused(code: str, mark: str) -> dict[str, tuple[Callable[[Parts], None], str]]:
    """What is in the way of reading a file, and what is said of it."""

    def target(name: str) -> Callable[[Parts], None]:
        return edit(PROGRAM, lambda document: nodes(document)[0].update(target=name))

    def argument(arg: Any) -> Callable[[Parts], None]:
        return edit(PROGRAM, lambda document: nodes(document)[0]["inputs"].append({"name": "x", "arg": arg, "kind": 1}))

    def first(document: Any) -> Any:
        return next(iter(document["config"].values()))

    def custom(name: str) -> Callable[[Parts], None]:
        def change(parts: Parts) -> None:
            entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
            edit(CONSTANTS, lambda document: document["config"].update(c=entry))(parts)
            parts[f"data/constants/{name}"] = pickle.dumps(None)

        return change

    def elsewhere(document: Any) -> None:
        first(document)["path_name"] = "../sample_inputs/model.pt"

    def wider(document: Any) -> None:
        first(document)["tensor_meta"]["sizes"][0]["as_int"] = 1 << 40

    def legacy(parts: Parts) -> None:
        parts["serialized_exported_program.json"] = parts.pop(PROGRAM)
        for name in ("state_dict", "constants", "example_inputs"):
            parts[f"serialized_{name}.pt"] = pickled(code)

    operator = "not in OPERATORS"
    argument_kind = "argument of kind"
    no_integer = "where an integer of 64 bits belongs"
    return {
        "a function": (target("torch.os.system"), operator),
        "a function of math": (target("math.factorial"), operator),
        "an operator of Python": (target("_operator.attrgetter"), operator),
        "an extension": (target("#x:y"), operator),
        "a file": (target("torch.ops.aten.from_file.default"), operator),
        "a higher-order operator": (target("torch.ops.higher_order.cond"), operator),
        "a library": (target("torch.ops.load_library"), operator),
        "an operator as argument": (argument({"as_operator": "torch.os.system"}), argument_kind),
        "a graph as argument": (argument({"as_graph": {"name": "g", "graph": {}}}), argument_kind),
        "an object as argument": (argument({"as_custom_obj": {"name": "c", "class_fqn": "x"}}), argument_kind),
        "a device": (argument({"as_device": {"type": "cuda", "index": 0}}), argument_kind),
        "a float without end": (argument({"as_float": 10**400}), "too large"),
        "an infinite integer": (argument({"as_int": 1e999}), no_integer),
        "infinite sizes": (argument({"as_ints": [1e999]}), no_integer),
        "an integer without end": (argument({"as_int": 10**400}), no_integer),
        "text for an integer": (argument({"as_int": "a"}), no_integer),
        "a list for a size": (argument({"as_sym_int": {"as_int": [1]}}), no_integer),
        "infinite sizes by symbol": (argument({"as_sym_ints": [{"as_int": 1e999}]}), no_integer),
        "weights by pickle": (edit(WEIGHTS, lambda document: first(document).update(use_pickle=True)), "is a pickle"),
        "an object": (custom("custom_obj_0"), "is a pickle"),
        "an opaque object": (custom("opaque_obj_0"), "is a pickle"),
        "weights elsewhere": (edit(WEIGHTS, elsewhere), "data/weights/../sample_inputs"),
        "weights larger than their part": (edit(WEIGHTS, wider), "holds no exported model"),
        "weights of a model of that name": (
            lambda parts: parts.update({"data/weights/weight_x.pt": pickled(code)}),
            "data/weights/weight_x.pt is missing, or is no part",
        ),
        "weights as they were once": (
            lambda parts: parts.update({"data/weights/model.pt": pickled(code)}),
            "data/weights/model.pt",
        ),
        "a second model": (lambda parts: parts.update({"models/other.json": parts[PROGRAM]}), "models/other.json"),
        "the format of once": (legacy, "holds no exported model"),
        "no weights": (lambda parts: parts.pop("data/weights/weight_0") and None, "weight_0"),
        "nested JSON": (lambda parts: parts.update({PROGRAM: b"[" * 100_000}), "holds no exported model"),
        "another format": (
            edit(PROGRAM, lambda document: document["schema_version"].update(major=9)),
            "of format 9, and this release reads 8",
        ),
    }


@pytest.mark.parametrize("what", refused("", ""))
def test_what_no_export_writes_is_refused(good: Path, tmp_path: Path, evil: str, what: str) -> None:
    parts = read_parts(good.read_bytes())
    change, said = refused(evil, "")[what]
    change(parts)
    with pytest.raises(BadInput, match="holds no exported model") as error:
        Exported(write(parts, tmp_path / "bad.pt2"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spaces", 8),
        ("spaces", {"image": -8}),
        ("item_numbers", "price"),
        ("max_history", "50"),
        ("max_history", -1),
        ("item_columns", ["item_id"]),
        ("item_columns", {"item_id": 1.5}),
        ("user_columns", {"user_id": True}),
        ("text_columns", {"title": -2}),
        ("labels", "click"),
        ("labels", [1]),
        ("actions", None),
        ("colour", 1),
    ],
)
def test_what_a_model_was_trained_with_has_types(good: Path, tmp_path: Path, field: str, value: Any) -> None:
    parts = read_parts(good.read_bytes())
    edit(f"extra/{SCHEMA}", lambda schema: schema["lineage"]["inputs"].update({field: value}))(parts)
    with pytest.raises(BadInput, match=rf"holds no exported model: ('{field}' is|the size of an input is below 0)"):
        Exported(write(parts, tmp_path / "bad.pt2"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("versions", 5), ("vector_version", "v"), ("options", []), ("inputs", None), ("width", "4"), ("model", {})],
)
def test_its_lineage_has_types(good: Path, tmp_path: Path, field: str, value: Any) -> None:
    parts = read_parts(good.read_bytes())
    edit(f"extra/{SCHEMA}", lambda schema: schema["lineage"].update({field: value}))(parts)
    with pytest.raises(BadInput, match="holds no exported model: "):
        Exported(write(parts, tmp_path / "bad.pt2"))


def test_its_columns_are_those_of_its_vocabulary(good: Path, tmp_path: Path) -> None:
    parts = read_parts(good.read_bytes())
    edit(f"extra/{SCHEMA}", lambda schema: schema["lineage"]["inputs"]["user_columns"].update(colour=3))(parts)
    with pytest.raises(BadInput, match="a column 'colour' that its vocabulary lacks"):
        Scorer.load(write(parts, tmp_path / "bad.pt2"))


def reshaped() -> dict[str, Callable[[bytes, bytes], bytes]]:
    """Bytes of an archive, and of another with other content, in forms that two readers may take for two things."""

    def zipped(data: bytes, **options: Any) -> bytes:
        block = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(block, "w", **options) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        return block.getvalue()

    def twice(data: bytes, other: bytes) -> bytes:
        block = io.BytesIO(data)
        with zipfile.ZipFile(io.BytesIO(other)) as source, zipfile.ZipFile(block, "a") as target:
            name = source.namelist()[0]
            target.writestr(name, source.read(name))
        return block.getvalue()

    return {
        "behind another": lambda data, other: other + data,
        "before another": lambda data, other: data + other,
        "behind bytes": lambda data, other: b"#!/bin/sh\n" + data,
        "before bytes": lambda data, other: data + b"x",
        "with a comment": lambda data, other: data[:-2] + b"\1\0x",
        "bytes between": lambda data, other: data[:64] + b"\0" * 64 + data[64:],
        "of another writer": lambda data, other: zipped(data),
        "compressed": lambda data, other: zipped(data, compression=zipfile.ZIP_DEFLATED),
        "a name twice": twice,
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", reshaped())
def test_an_archive_of_another_form_is_refused(good: Path, tmp_path: Path, evil: str, form: str) -> None:
    parts = read_parts(good.read_bytes())
    parts["data/sample_inputs/model.pt"] = pickled(evil)
    other = write(parts, tmp_path / "other.pt2").read_bytes()
    (tmp_path / "bad.pt2").write_bytes(reshaped()[form](good.read_bytes(), other))
    with pytest.raises(BadInput, match="holds no exported model"):
        Exported(tmp_path / "bad.pt2")


def test_what_is_no_file_of_ours_is_refused(good: Path, ladder_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copy(good, tmp_path / "cut.pt2")
    os.truncate(tmp_path / "cut.pt2", 5000)
    (tmp_path / "empty.pt2").touch()
    for name in ("none.pt2", "cut.pt2", "empty.pt2", "."):
        with pytest.raises(BadInput, match="holds no exported model"):
            Exported(tmp_path / name)
    with pytest.raises(BadInput, match="holds no exported model"):
        Exported(ladder_folder / "samples" / "train.parquet")


def hostile() -> dict[str, tuple[Callable[[Any], None], str]]:
    """Programs that are read, and what is said of them when they are run."""

    def node(target: str, *args: tuple[str, Any], result: str = "x") -> Any:
        inputs = [{"name": "", "arg": {kind: value}, "kind": 1} for kind, value in args]
        return {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": result}}], "metadata": {}}

    def name(of: str) -> tuple[str, Any]:
        return "as_tensor", {"name": of}

    def first(*added: Any) -> Callable[[Any], None]:
        return lambda document: nodes(document).__setitem__(slice(0, 0), added)

    def operator(of: str, *args: tuple[str, Any]) -> Callable[[Any], None]:
        return first(node(f"_operator.{of}", *args))

    def last(target: str, *args: tuple[str, Any]) -> Callable[[Any], None]:
        def change(document: Any) -> None:
            (output,) = document["graph_module"]["graph"]["outputs"]
            nodes(document).append(node(f"torch.ops.aten.{target}", name(output["as_tensor"]["name"]), *args))
            output["as_tensor"]["name"] = "x"

        return change

    def one(value: int) -> tuple[str, Any]:
        return "as_int", value

    squares = [node("_operator.mul", name(f"x{n}"), name(f"x{n}"), result=f"x{n + 1}") for n in range(24)]
    no_integer, outside = "where an integer of 64 bits belongs", "gives no probability: 16 of 16 values are not from 0"
    return {
        "a value that no node gives": (lambda document: nodes(document).pop(0) and None, "fails"),
        "another operator's arguments": (lambda document: nodes(document)[-1].update(target="_operator.mul"), "fails"),
        "floor division by zero": (operator("floordiv", one(1), one(0)), "by zero"),
        "modulo by zero": (operator("mod", one(1), one(0)), "by zero"),
        "a sum beyond 64 bits": (operator("add", one(2**63 - 1), one(1)), no_integer),
        "squares of squares": (first(node("_operator.add", one(9), one(0), result="x0"), *squares), no_integer),
        "formatted text": (operator("mod", ("as_string", "%c"), one(-1)), no_integer),
        "repeated text": (operator("mul", ("as_string", "a"), one(2**62)), no_integer),
        "joined text": (operator("add", ("as_string", "a"), ("as_string", "b")), no_integer),
        "a repeated list": (operator("mul", ("as_ints", [1]), one(2**62)), no_integer),
        "a truth value": (operator("mul", ("as_bool", True), one(1)), no_integer),
        "a float": (operator("mul", ("as_float", 1.5), one(2)), no_integer),
        "all memory": (first(node("torch.ops.aten.arange.default", one(10**15))), "fails"),
        "integers": (last("to.dtype", ("as_scalar_type", 5)), "gives no probability: its output is torch.int64"),
        "truth values": (last("to.dtype", ("as_scalar_type", 12)), "gives no probability: its output is torch.bool"),
        "halves": (last("to.dtype", ("as_scalar_type", 13)), "gives no probability: its output is torch.bfloat16"),
        "another shape": (last("t.default"), "gives no probability: its output is torch.float32 of shape (1, 16)"),
        "a number": (last("sym_size.int", one(0)), "gives no probability: its output is of type int"),
        "no number": (last("mul.Tensor", ("as_float", "NaN")), outside),
        "infinity": (last("add.Tensor", ("as_float", "Infinity")), outside),
        "below 0": (last("neg.default"), outside),
        "above 1": (last("mul.Tensor", ("as_float", 1e30)), outside),
    }


@pytest.mark.parametrize("what", hostile())
def test_a_program_that_goes_wrong_is_an_error_in_words(
    good: Path, batch: TensorBatch, tmp_path: Path, what: str
) -> None:
    parts = read_parts(good.read_bytes())
    change, said = hostile()[what]
    edit(PROGRAM, change)(parts)
    found = Exported(write(parts, tmp_path / "bad.pt2"))
    with pytest.raises(BadInput, match="Export the model again") as error:
        found.probabilities(batch, {})
    assert said in str(error.value)
