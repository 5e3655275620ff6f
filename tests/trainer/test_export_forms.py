"""The forms that a model is exported in: the numbers are those of the run, and what is in a file is looked at first."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from exported_files import with_native_code, write
from model_batches import make_batch
from onnx import TensorProto, helper
from test_exported import edit
from test_ladder import config, folder, transport  # noqa: F401
from test_models import ready

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.evaluate import predict
from crossmedia.trainer.export import native, onnx_program, pt2
from crossmedia.trainer.export.archive import read_parts
from crossmedia.trainer.export.exported import EXTRA, SCHEMA, Exported, export_model
from crossmedia.trainer.export.tracing import Traced, flat
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.tensors import ImageVectors, to_tensors

# Rows with so many behaviours: none at all, one row, ragged ones, many, and no row.
BATCHES: tuple[list[int], ...] = ([3, 0, 2], [0], [5], [0, 0], [1, 2, 3, 4, 5, 6, 7] * 20, [40] * 50, [])


def said_of_native(name: str, value: str, schema: dict[str, Any]) -> None:
    schema["native"][name] = value


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same(
    program: Callable[[Any], torch.Tensor], inputs: tuple[str, ...], eager: Callable[..., torch.Tensor]
) -> None:
    for lengths in BATCHES:
        batch, vectors = make_batch(lengths, seed=4)
        with torch.inference_mode():
            expected = torch.sigmoid(eager(batch, vectors))
            assert torch.allclose(program(flat(batch, vectors, inputs)), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run without images, with histories."""
    out = tmp_path_factory.mktemp("forms") / "run"
    fit(FitConfig(str(folder / "samples"), str(out), "mlr", images=False, epochs=1, batch_size=64, width=4))
    return out


@pytest.fixture(scope="module")
def onnx_file(run: Path) -> Path:
    return export_model(run, out=run.parent / "mlr.onnx", form="onnx")


def test_an_onnx_file_gives_the_numbers_of_the_run(run: Path, onnx_file: Path, folder: Path) -> None:  # noqa: F811
    exported = Exported(onnx_file)
    assert exported.digest == digest(onnx_file)
    of_run = pq.read_table(run / "predictions.parquet")["probability"].to_numpy()
    for size in (64, 7, 1):
        feed = Feed(Samples(folder / "samples"), Spaces({}), size, torch.device("cpu"))
        assert predict(exported, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)
    told = onnx.load(onnx_file)
    assert str(Path(__file__).parents[2]).encode() not in onnx_file.read_bytes(), "no folder of this machine"
    assert [one.name for one in told.graph.input] == list(exported.inputs)
    assert Scorer.load(onnx_file, items="").score({"user_id": "u1"}, {"item_id": ["i1", "i2"]}).shape == (2,)


@pytest.mark.parametrize("options", [{"factors": 3}, {"hidden": (3, 7)}], ids=str)
def test_no_size_of_a_model_is_taken_for_one_of_a_batch(options: dict[str, Any]) -> None:
    model = ready("embedding_mlp", options).served().eval()
    traced = Traced.of(model)
    data = pt2.written(traced, {SCHEMA: "{}"})
    program = pt2.program_of(read_parts(data), [*traced.inputs], [EXTRA + SCHEMA])
    assert_same(program, program.inputs, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dien", "rocket"])
def test_models_with_histories_and_vectors_are_onnx(name: str) -> None:
    model = ready(name, {}).served().eval()
    traced = Traced.of(model)
    program = onnx_program.OnnxProgram(onnx_program.written(traced, {}))
    assert_same(program, program.inputs, model)


@pytest.mark.slow
def test_native_code_gives_the_numbers_of_the_model_for_those_who_trust_it(
    config: FitConfig,  # noqa: F811
    transport: MockTransport,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit(FitConfig(config.samples, config.out, "lr", epochs=1, batch_size=64), transport)
    file = export_model(config.out, out=tmp_path / "lr.pt2", form="aoti")
    with pytest.raises(BadInput, match=rf"{file} holds native code.*--trust-native {digest(file)};"):
        Exported(file)
    stranger = "ab" * 32
    with pytest.raises(BadInput, match=rf"Trusted so far: {stranger}\. If you"):
        Scorer.load(file, server=ImageClient(transport), trust_native=[stranger, ""])
    of_run = pq.read_table(Path(config.out) / "predictions.parquet")["probability"].to_numpy()
    exported = Exported(file, digest(file))
    with ImageClient(transport) as client:
        spaces = Spaces({"image": ImageHead(client)})
        for size in (64, 7, 1):
            feed = Feed(Samples(config.samples), spaces, size, torch.device("cpu"))
            assert predict(exported, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)
    batch = to_tensors(next(Samples(config.samples).batches("test", 16)), torch.device("cpu"))
    wrong = {"image": ImageVectors(torch.zeros(0, 9), torch.zeros(0, dtype=torch.bool))}
    with pytest.raises(BadInput, match=r"its input vectors.image.values is torch.float32 of shape \[0, 9\]"):
        exported.probabilities(batch, wrong)  # of another length: native code would read on
    parts = read_parts(file.read_bytes())
    for name, value, words in (("torch", "1.0", "compiled for torch 1.0"), ("machine", "vax", "for machine vax")):
        edit(EXTRA + SCHEMA, partial(said_of_native, name, value))(parts)
        other = write(parts, tmp_path / "other.pt2")
        with pytest.raises(BadInput, match=f"{words}.*Export it here"):
            Exported(other, digest(other))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(BadInput, match="of the level x86-64-v3, and this one has DEFAULT"):
        Exported(file, digest(file))


@pytest.fixture(scope="module")
def native_file(run: Path) -> Path:
    """What looks like native code, and is none."""
    return with_native_code(export_model(run, out=run.parent / "mlr.pt2"), run.parent / "native.pt2")


def test_native_code_is_refused_until_its_digest_is_named(
    native_file: Path,
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    told = digest(native_file)
    words = rf"holds native code, a package of AOTInductor: who made it can do.*give --trust-native {told};"
    for trusted in ((), "", [""], ["0" * 64]):
        with pytest.raises(BadInput, match=words) as error:
            Scorer.load(native_file, trust_native=trusted)
        assert ("Trusted so far" in str(error.value)) == (trusted == ["0" * 64])
    score = [str(native_file), "--exported", f"--samples={folder / 'samples'}", f"--out={tmp_path / 'out.parquet'}"]
    done = CliRunner().invoke(trainer, ["score", *score])
    assert (done.exit_code, told in done.output) == (2, True), done.output
    serve = ["serve", str(native_file), f"--folder={tmp_path / 'serving'}", "--port=0"]
    done = CliRunner().invoke(trainer, serve)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    for one in (told, told.upper()):
        with pytest.raises(BadInput, match="holds no exported model"):  # it is trusted, and none of PyTorch's
            Exported(native_file, one)


@pytest.mark.parametrize("wrong", ["xyz", "0" * 63, "g" * 64, f" {'0' * 64}"])
def test_what_is_no_digest_is_said_at_once(run: Path, native_file: Path, tmp_path: Path, wrong: str) -> None:
    words = rf"A digest of trust_native is '{wrong}'; it must be a sha256"
    for model in (run, native_file, tmp_path / "none"):
        for trusted in (wrong, ["0" * 64, wrong]):
            with pytest.raises(BadInput, match=words):
                Scorer.load(model, trust_native=trusted)
    with pytest.raises(BadInput, match=words):
        Exported(native_file, wrong)
    for command in (["score", f"--out={tmp_path / 'out.parquet'}"], ["serve", f"--folder={tmp_path / 'serving'}"]):
        done = CliRunner().invoke(trainer, [command[0], str(run), command[1], f"--trust-native={wrong}x"])
        assert (done.exit_code, "must be a sha256" in done.output) == (2, True), done.output


def test_what_is_loaded_is_what_was_digested(
    native_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is another one as soon as it was read, and what goes to PyTorch is what was read."""
    file = tmp_path / "native.pt2"
    file.write_bytes(data := native_file.read_bytes())
    check, loaded = native.check_trusted, []

    def swapped(path: Path, *rest: Any) -> None:
        check(path, *rest)
        path.write_bytes(b"another")

    def load(path: str, *options: Any) -> Any:
        loaded.append((Path(path).read_bytes(), Path(path).parent.stat().st_mode & 0o777))
        raise RuntimeError("enough")

    monkeypatch.setattr(native, "check_trusted", swapped)
    monkeypatch.setattr("torch._C._aoti.AOTIModelPackageLoader", load)
    with pytest.raises(BadInput, match="enough"):
        Exported(file, hashlib.sha256(data).hexdigest())
    assert loaded == [(data, 0o700)]


def test_without_a_compiler_it_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(BadInput, match=r"there is no compiler here\. Install"):
        export_model(run, out=tmp_path / "mlr.pt2", form="aoti")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(BadInput, match=r"this machine is aarch64\. Export it as pt2 or onnx"):
        export_model(run, out=tmp_path / "mlr.pt2", form="aoti")
    assert not (tmp_path / "mlr.pt2").exists()
    with pytest.raises(BadInput, match="one of pt2, aoti, onnx"):
        export_model(run, out=tmp_path / "mlr.pt2", form="tflite")  # type: ignore[arg-type]


def test_without_the_extra_it_says_so(
    run: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(BadInput, match=rf'need {missing}. Install it with: pip install "crossmedia\[onnx\]"'):
            Exported(onnx_file) if missing == "onnxruntime" else export_model(run, out=tmp_path / "x", form="onnx")


def hostile_graphs() -> dict[str, tuple[Callable[[onnx.ModelProto], None], str]]:
    """Changes of a good file, and what is said of it."""

    def elsewhere(tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")

    def of_weights(model: onnx.ModelProto) -> None:
        elsewhere(model.graph.initializer[0])

    def of_a_branch(model: onnx.ModelProto) -> None:
        weights = TensorProto(name="w", data_type=1, dims=[1])
        elsewhere(weights)
        constant = helper.make_node("Constant", [], ["c"], value=weights)
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", 1, [1])])
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))

    def of_a_sparse_one(model: onnx.ModelProto) -> None:
        sparse = model.graph.sparse_initializer.add(dims=[1])
        sparse.values.name = "s"
        elsewhere(sparse.values)

    def of_others(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft"))

    def function(model: onnx.ModelProto) -> None:
        model.functions.add(name="f", domain="d")

    def output(name: str, kind: int) -> Callable[[onnx.ModelProto], None]:
        def change(model: onnx.ModelProto) -> None:
            old = model.graph.output[0].name
            model.graph.node.append(helper.make_node("Cast" if name == "cast" else "Neg", [old], [name], to=kind))
            if name != "cast":
                del model.graph.node[-1].attribute[:]
            model.graph.output[0].name = name
            model.graph.output[0].type.tensor_type.elem_type = kind

        return change

    def second_output(model: onnx.ModelProto) -> None:
        model.graph.output.add().CopyFrom(model.graph.output[0])

    return {
        "weights of a path": (of_weights, "lie in another file, which is never read"),
        "weights in a branch": (of_a_branch, "lie in another file, which is never read"),
        "weights that are sparse": (of_a_sparse_one, "lie in another file, which is never read"),
        "an operator of others": (of_others, "'Tokenizer' of 'com.microsoft', which is not of the standard"),
        "a function": (function, "functions of its own"),
        "a second output": (second_output, "several outputs"),
        "no nodes": (lambda model: model.graph.ClearField("node"), "holds no exported model"),
        "no description": (lambda model: model.ClearField("metadata_props"), "holds no exported model: 'schema.json'"),
        "doubles": (output("cast", TensorProto.DOUBLE), "gives no probability: its output is torch.float64"),
        "below 0": (output("below", TensorProto.FLOAT), "gives no probability: 16 of 16 values are not from 0 to 1"),
    }


@pytest.mark.parametrize("what", hostile_graphs())
def test_an_onnx_file_that_no_export_writes_is_refused(
    onnx_file: Path,
    folder: Path,  # noqa: F811
    tmp_path: Path,
    what: str,
) -> None:
    model = onnx.load(onnx_file)
    change, words = hostile_graphs()[what]
    change(model)
    (tmp_path / "bad.onnx").write_bytes(onnx_program.sealed(model.SerializeToString()))
    feed = Feed(Samples(folder / "samples"), Spaces({}), 16, torch.device("cpu"))
    with pytest.raises(BadInput) as error:
        predict(Exported(tmp_path / "bad.onnx"), feed, "test")
    assert words in str(error.value)


def test_bytes_that_begin_as_onnx_are_refused(onnx_file: Path, tmp_path: Path) -> None:
    good, rng = onnx_file.read_bytes(), np.random.default_rng(0)
    for n in range(40):
        data = bytearray(good[: int(rng.integers(1, len(good)))]) if n % 2 else bytearray(rng.bytes(200))
        data[0] = onnx_program.START[0]
        (tmp_path / "bad.onnx").write_bytes(onnx_program.sealed(bytes(data)) if n % 4 < 2 else data)
        with pytest.raises(BadInput, match="holds no exported model"):
            Exported(tmp_path / "bad.onnx")


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder of a pipe", "a pipe of items"])
def test_what_is_no_file_is_refused_and_not_waited_for(run: Path, tmp_path: Path, what: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if what == "a folder of a pipe":
        os.mkfifo(tmp_path / "config.json")
    load: dict[str, Callable[[], Scorer]] = {
        "a pipe": lambda: Scorer.load(pipe),
        "a device": lambda: Scorer.load("/dev/zero"),
        "a folder of a pipe": lambda: Scorer.load(tmp_path),
        "a pipe of items": lambda: Scorer.load(run, items=pipe),
    }
    with pytest.raises(BadInput, match="It is no file, but a pipe or a device"):
        load[what]()


def test_the_command_says_its_digest_and_the_file_scores(run: Path, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "mlr.onnx"
    done = CliRunner().invoke(trainer, ["export", str(run), f"--out={out}", "--format=onnx", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"exported": str(out), "sha256": digest(out)}
    scores = tmp_path / "scores.parquet"
    done = CliRunner().invoke(
        trainer, ["score", str(out), "--exported", f"--samples={folder / 'samples'}", f"--out={scores}", "--json"]
    )
    assert done.exit_code == 0, done.output
    of_run = pq.read_table(run / "predictions.parquet")["probability"].to_numpy()
    assert pq.read_table(scores)["probability"].to_numpy() == pytest.approx(of_run, abs=1e-5)
