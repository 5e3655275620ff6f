from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import DaemonProcess, run_command
from PIL import Image

from crossmedia.errors import BadInput
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import OpenVinoEngine, TorchEngine
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.onnxruntime_engine import OnnxRuntimeEngine
from crossmedia.imgserver.vision.torchvision_zoo import entries, import_torchvision, torchvision_backbone

LIMITS = ImageLimits()


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of resnet18: its numbers do not matter, only that they are the same everywhere."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(import_torchvision().resnet18(weights=None).state_dict(), path)
    return path


def test_a_net_of_torchvision_equals_torchvisions_own_pipeline(resnet_file: Path, photos: Path) -> None:
    models = import_torchvision()
    net = models.resnet18(weights=None)
    net.load_state_dict(torch.load(resnet_file, weights_only=True))
    net.fc = torch.nn.Identity()
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    files = sorted(photos.glob("*.jpg"))[:12]
    with torch.inference_mode():
        wanted = net.eval()(torch.stack([preset(Image.open(f).convert("RGB")) for f in files])).numpy()
    backbone = get_backbone(f"torchvision:resnet18@{resnet_file}")
    assert backbone.feature_dim == 512
    assert backbone.version.startswith("torchvision:resnet18.resnet@")
    pixels = np.stack([decode(f.read_bytes(), backbone.preprocessing, LIMITS) for f in files])
    np.testing.assert_allclose(TorchEngine(backbone).run(pixels), wanted, atol=2e-4)
    found = OpenVinoEngine(backbone, None).run(pixels)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (224, 224), (1001, 335)])
def test_cropping_is_torchvisions_to_the_pixel(shape: tuple[int, int]) -> None:
    import io

    backbone = torchvision_backbone("torchvision:resnet50@IMAGENET1K_V2", random_weights=True)
    preset = import_torchvision().ResNet50_Weights.IMAGENET1K_V2.transforms()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    out = io.BytesIO()
    image.save(out, "PNG")
    how = backbone.preprocessing
    ours = (decode(out.getvalue(), how, LIMITS).astype(np.float32) - how.mean) / how.scale
    np.testing.assert_allclose(ours.transpose(2, 0, 1), preset(image).numpy(), atol=1e-5)


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "vit_b_32", "regnet_x_400mf", "inception_v3", "densenet121"])
def test_the_last_layer_is_taken_off_whatever_it_is_called(model: str) -> None:
    backbone = torchvision_backbone(f"torchvision:{model}", random_weights=True)
    size = backbone.preprocessing.size
    features = TorchEngine(backbone).run(np.zeros((1, size, size, 3), dtype=np.uint8))
    assert features.shape == (1, backbone.feature_dim)


@pytest.mark.slow
def test_a_store_remembers_its_backbone(resnet_file: Path, photos: Path, tmp_path: Path) -> None:
    """Precompute with a net of torchvision; the daemon computes what is missing with the same, without being told."""
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, range(40))))
    common = [f"--catalogue={photos}", f"--backbone=torchvision:resnet18@{resnet_file}", "--dim=8"]
    run_command("imgserver", "precompute", *common, f"--store={tmp_path / 'a'}", f"--ids={ids}")
    daemon = DaemonProcess(tmp_path / "a", photos)
    try:
        with ImageClient(daemon.address) as client:
            assert client.info().backbone.startswith("torchvision:resnet18.resnet@")
            fresh = client.get([50, 51])
            assert fresh.ok.all()
            assert client.info().counters.cnn_passes_on_demand == 2
    finally:
        daemon.stop()
    run_command("imgserver", "precompute", *common, f"--store={tmp_path / 'a'}")
    with ImageClient(open_local(tmp_path / "a")) as client:
        np.testing.assert_array_equal(client.get([50, 51]).values, fresh.values)
    resnet_file.rename(resnet_file.with_suffix(".away"))
    try:
        with pytest.raises(BadInput, match="no such file"):
            open_local(tmp_path / "a", photos)
        with ImageClient(open_local(tmp_path / "a")) as client:  # what is stored needs no net
            assert client.get([50]).ok.all()
    finally:
        resnet_file.with_suffix(".away").rename(resnet_file)


def test_the_repair_comes_only_after_that_error() -> None:
    """A plain import that works is left alone; the one error is mended; any other is raised."""
    code = """
import sys, types
import crossmedia.imgserver.vision.torchvision_zoo as zoo
class Finder:
    tries = 0
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            Finder.tries += 1
            if Finder.tries == 1 and MESSAGE:
                raise RuntimeError(MESSAGE)
        return None
MESSAGE = sys.argv[1]
sys.meta_path.insert(0, Finder())
try:
    zoo.import_torchvision()
    print("imported", Finder.tries)
except RuntimeError as error:
    print("raised", error)
"""

    def run(message: str) -> str:
        return subprocess.run([sys.executable, "-c", code, message], capture_output=True, text=True).stdout.strip()

    assert run("something else") == "raised something else"
    assert run("operator torchvision::nms does not exist").startswith("imported")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (print, ("code ran",))


def test_weights_that_are_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(BadInput, match=r"no plain state dict|cannot be read"):
        get_backbone(f"torchvision:resnet18@{tmp_path / 'evil.pth'}")
    assert "code ran" not in capsys.readouterr().out


def test_weights_of_another_net_are_refused(resnet_file: Path) -> None:
    with pytest.raises(BadInput, match="do not fit resnet50"):
        get_backbone(f"torchvision:resnet50@{resnet_file}")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("resnet50", "torchvision:<model>"),
        ("torchvision:resnet5", r"no classifier 'resnet5'\. .*'resnet50'"),
        ("torchvision:resnet18@IMAGENET_V9", "There are: IMAGENET1K_V1"),
        ("torchvision:squeezenet1_0@IMAGENET1K_V1", "no last linear layer"),
        ("onnx:none.onnx", "none.onnx does not exist"),
    ],
)
def test_a_backbone_that_is_not_there_says_what_is(recipe: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        get_backbone(recipe)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default CNN without its normalisation, as ONNX with channels first."""
    path = tmp_path_factory.mktemp("onnx") / "lite0.onnx"
    backbone = get_backbone("efficientnet_lite0")
    assert callable(backbone.graph)
    net = backbone.graph().get_submodule("net").eval()
    example = torch.zeros((1, 3, 224, 224))
    names = {"input_names": ["pictures"], "output_names": ["maps"], "dynamic_axes": {"pictures": [0], "maps": [0]}}
    with pytest.warns(), torch.no_grad():  # the tracer's, about the net's own Python
        torch.onnx.export(net, (example,), str(path), dynamo=False, **names)  # type: ignore[arg-type]
    return path


SPEC = "size = 224\nfit = 'stretch'\nmean = [127, 127, 127]\nscale = [128, 128, 128]\n"


def test_an_onnx_file_gives_the_features_of_its_net(onnx_file: Path, photos: Path) -> None:
    onnx_file.with_suffix(".toml").write_text(SPEC + "interpolation = 'bicubic'\noutput = 'maps'\n")
    backbone = get_backbone(f"onnx:{onnx_file}")
    assert backbone.feature_dim == 1280
    original = get_backbone("efficientnet_lite0")
    files = sorted(photos.glob("*.jpg"))[:8]
    pixels = np.stack([decode(f.read_bytes(), backbone.preprocessing, LIMITS) for f in files])
    a, b = OpenVinoEngine(backbone, None).run(pixels), TorchEngine(original).run(pixels)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.9999
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    one = Machine(threads=1)
    np.testing.assert_allclose(OnnxRuntimeEngine(backbone, "cpu", one).run(pixels), a, atol=1e-3)
    onnx_file.with_suffix(".toml").write_text(SPEC + "channels = 'bgr'\n")
    swapped = get_backbone(f"onnx:{onnx_file}")
    assert swapped.version != backbone.version
    c = OpenVinoEngine(swapped, None).run(np.ascontiguousarray(pixels[..., ::-1]))
    np.testing.assert_allclose(c, a, atol=1e-4)
    d = OnnxRuntimeEngine(swapped, "cpu", one).run(np.ascontiguousarray(pixels[..., ::-1]))
    np.testing.assert_allclose(d, a, atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("size = 224", "does not say mean"),
        (SPEC + "sise = 3", "unknown key 'sise'"),
        (SPEC.replace("stretch", "squeeze"), "fit is 'squeeze'"),
        (SPEC.replace("stretch", "crop"), "resize must be at least size"),
        (SPEC.replace("[127, 127, 127]", "127"), "mean is 127"),
        (SPEC.replace("[127, 127, 127]", "[0, 0, nan]"), "mean is .*nan"),
        (SPEC.replace("[128, 128, 128]", "[1, 1, 0]"), "holds a 0"),
        (SPEC + "output = 'logits'", "no output 'logits'"),
        (SPEC + "input = 'x'", "calls 'x'"),
        (SPEC + "layout = 'nhwc'", "does not take batches"),
        ("size =", "not valid TOML"),
    ],
)
def test_a_wrong_onnx_spec_is_said(onnx_file: Path, spec: str, message: str) -> None:
    onnx_file.with_suffix(".toml").write_text(spec)
    with pytest.raises(BadInput, match=message):
        get_backbone(f"onnx:{onnx_file}")


def test_weights_beside_an_onnx_file_are_part_of_its_version(onnx_file: Path, tmp_path: Path) -> None:
    net = tmp_path / "net [v1].onnx"
    net.write_bytes(onnx_file.read_bytes())
    net.with_suffix(".toml").write_text(SPEC)
    alone = get_backbone(f"onnx:{net}").version
    (tmp_path / "net [v1].onnx.data").write_bytes(b"weights")
    assert get_backbone(f"onnx:{net}").version != alone


def test_an_onnx_file_without_a_spec_shows_one(onnx_file: Path) -> None:
    onnx_file.with_suffix(".toml").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="size = 224"):
        get_backbone(f"onnx:{onnx_file}")


def test_the_name_of_a_net_means_its_best_weights() -> None:
    published = entries()
    best = [entry.recipe for entry in published if entry.default]
    assert "torchvision:resnet50@IMAGENET1K_V2" in best
    assert {name.partition("@")[0] for name in best} == {entry.recipe.partition("@")[0] for entry in published}
    assert len(best) < len(published)


@pytest.mark.slow
def test_backbones_are_listed_with_what_they_cost_here() -> None:
    found = json.loads(run_command("imgserver", "backbones", "--json", timeout_s=200).stdout)
    names = {entry["recipe"]: entry for entry in found}
    assert names["efficientnet_lite0"]["images_per_s"] > 0
    assert names["torchvision:resnet50@IMAGENET1K_V2"]["dim"] == 2048
    assert len(found) > 100
    one = json.loads(run_command("imgserver", "backbones", "torchvision:resnet18", "--json").stdout)
    assert one[0]["images_per_s"] > 0


def test_photos_that_a_net_has_no_numbers_for_are_corrupt_and_the_others_are_embedded(
    photos: Path, tmp_path: Path
) -> None:
    """A net that divides by the contrast of a picture, and a picture that has none."""
    net = tmp_path / "contrast.onnx"
    nodes = [
        onnx.helper.make_node("AveragePool", ["x"], ["means"], kernel_shape=[56, 56], strides=[56, 56]),
        onnx.helper.make_node("Flatten", ["means"], ["flat"]),
        onnx.helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        onnx.helper.make_node("Sub", ["flat", "mean"], ["off"]),
        onnx.helper.make_node("ReduceL2", ["off"], ["contrast"], axes=[1], keepdims=1),
        onnx.helper.make_node("Div", ["off", "contrast"], ["features"]),
    ]
    float32 = onnx.TensorProto.FLOAT
    pictures = onnx.helper.make_tensor_value_info("x", float32, ["n", 3, 224, 224])
    features = onnx.helper.make_tensor_value_info("features", float32, ["n", 48])
    graph = onnx.helper.make_graph(nodes, "contrast", [pictures], [features])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), net)
    net.with_suffix(".toml").write_text("size = 224\nfit = 'stretch'\nmean = [0, 0, 0]\nscale = [255, 255, 255]\n")
    catalogue = tmp_path / "photos"
    catalogue.mkdir()
    for number, photo in enumerate(sorted(photos.glob("*.jpg"))[:40]):
        shutil.copy(photo, catalogue / f"{number}.jpg")
    Image.new("RGB", (64, 64)).save(catalogue / "7.jpg")
    common = ("imgserver", "precompute", f"--catalogue={catalogue}", f"--backbone=onnx:{net}", "--dim=8")
    done = run_command(*common, f"--store={tmp_path / 'store'}", "--json")
    report = json.loads(done.stdout)
    assert (report["embedded"], report["rejected"], report["reasons"]) == (39, 1, {"CORRUPT": 1})
    assert "not finite" in Path(report["rejects_file"]).read_text()
    with ImageClient(open_local(tmp_path / "store")) as client:
        found = client.get(range(40))
        assert np.flatnonzero(~found.ok).tolist() == [7]
        assert found.status[7] == Status.CORRUPT
        assert np.isfinite(found.values).all()
    run_command(*common, f"--out={tmp_path / 'files'}", "--part=1/1")
    merge = ("imgserver", "merge", str(tmp_path / "files"), f"--store={tmp_path / 'merged'}", "--dim=8", "--json")
    assert json.loads(run_command(*merge).stdout)["rejected"] == 1
