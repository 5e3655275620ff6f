"""Nets in 8 bits: calibrated on photos, kept as a file that is part of the version, the same wherever it is read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from safetensors.numpy import save_file

import crossmedia
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.offline.own_nets import kept_recipe, own_recipe
from crossmedia.imgserver.vision import int8
from crossmedia.imgserver.vision.backbones import get_backbone, without_endings
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import OpenVinoEngine, TorchEngine
from crossmedia.imgserver.vision.int8 import Int8Name, digest, in_store, keep
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.version import Version

NAME = "efficientnet_lite0#int8"
ONE = Machine(threads=1, decode_threads=1)


def processor_can() -> bool:
    try:
        int8.check_processor("")
    except BadInput:
        return False
    return True


computes = pytest.mark.skipif(not processor_can(), reason="this processor has no VNNI, which #int8 needs")


@pytest.fixture(scope="module")
def store(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With 36 photos, embedded by a net that was calibrated on photos of the catalogue."""
    pytest.importorskip("nncf", reason="the extra int8 is not installed")
    folder = tmp_path_factory.mktemp("int8")
    ids = folder / "ids.txt"
    ids.write_text("\n".join(map(str, range(36))))
    options = [f"--catalogue={photos}", f"--store={folder / 'store'}", f"--ids={ids}", "--dim=8", f"--backbone={NAME}"]
    done = run_command("imgserver", "precompute", *options, timeout_s=250)
    assert "nncf" not in (done.stdout + done.stderr).lower(), "its steps are not for users of ours"
    return folder / "store"


def version_of(store: Path) -> Version:
    with ImageClient(open_local(store)) as client:
        return Version.parse(client.info().version)


@pytest.mark.slow
@computes
def test_features_are_close_to_those_in_float32_and_no_others_in_another_batch(store: Path, photos: Path) -> None:
    plain, narrow = get_backbone("efficientnet_lite0"), get_backbone(kept_recipe(store), store)
    assert narrow.version.endswith("#int8")
    assert narrow.version.partition("@")[2].partition("#")[0] != plain.version.partition("@")[2]
    pixels = np.stack(
        [decode(f.read_bytes(), plain.preprocessing, ImageLimits()) for f in sorted(photos.iterdir())[:9]]
    )
    a, b = OpenVinoEngine(narrow, None, ONE).run(pixels), TorchEngine(plain).run(pixels)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean() > 0.97
    np.testing.assert_array_equal(OpenVinoEngine(narrow, None, ONE).run(pixels[:1]), a[:1])


@pytest.mark.slow
@computes
def test_a_store_goes_on_with_its_own_net_wherever_it_is(store: Path, photos: Path, tmp_path: Path) -> None:
    """More photos, a server's misses, a copy elsewhere, and another store that is given the file: one version."""
    wanted = version_of(store)
    copied = tmp_path / "copied"
    shutil.copytree(store, copied)
    for backbone in (None, NAME):  # that of the active version, and by its name
        made = crossmedia.precompute(copied, photos, backbone, ids=[40, 41], machine=ONE)
        assert made.version == str(wanted)
    with ImageClient(open_local(copied, catalogue=str(photos))) as client:
        assert client.get([0, 50]).ok.all()
    (file,) = (store / "encoders").iterdir()
    other = crossmedia.precompute(tmp_path / "other", photos, f"{NAME}:{file}", dim=2, ids=range(4), machine=ONE)
    assert Version.parse(other.version).backbone == wanted.backbone
    part = ("--part=1/1", f"--out={tmp_path / 'files'}", f"--ids={store.parent / 'ids.txt'}", f"--catalogue={photos}")
    bare = run_command("imgserver", "precompute", *part, f"--backbone={NAME}", check=False)
    assert "is calibrated on photos" in bare.stderr
    run_command("imgserver", "precompute", *part, f"--backbone={NAME}:{file}")
    run_command("imgserver", "merge", str(tmp_path / "files"), f"--store={tmp_path / 'merged'}", "--dim=8")
    assert version_of(tmp_path / "merged").backbone == wanted.backbone
    assert in_store(tmp_path / "merged", digest(file.read_bytes())).exists()


@pytest.mark.slow
@computes
def test_a_file_that_is_damaged_or_gone_is_said(store: Path, tmp_path: Path) -> None:
    recipe = kept_recipe(store)
    shutil.copytree(store, tmp_path / "store")
    (file,) = (tmp_path / "store" / "encoders").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"is damaged: it is not what was written\. Copy it from"):
        get_backbone(recipe, tmp_path / "store")
    file.unlink()
    with pytest.raises(StoreError, match="is missing"):
        get_backbone(recipe, tmp_path / "store")


@computes
def test_too_few_photos_to_calibrate_on_are_refused(photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(photos.iterdir())[:5]:
        shutil.copy(file, few)
    (few / "99.jpg").write_bytes(b"no photo")
    with pytest.raises(BadInput, match=r"calibrated on 32 photos or more, and 5 can be read\. Add photos"):
        own_recipe(tmp_path / "store", PhotoSource(str(few)).open(), NAME, ImageLimits(), 1)
    assert not (tmp_path / "store" / "encoders").exists()


def test_what_is_no_net_in_8_bits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"none")
    for recipe, said in (
        (NAME, r"is calibrated on photos\. 'imgserver precompute' does that"),
        (f"{NAME}@0123456789ab", "is calibrated on photos"),
        (f"{NAME}:{tmp_path / 'gone.safetensors'}", "is no net that was calibrated"),
        (f"{NAME}:{tmp_path / 'other.safetensors'}", "is no net that was calibrated"),
        (f"{NAME}:{tmp_path / 'none.safetensors'}", "is no net that was calibrated"),
        ("efficientnet_lite0#bf16#int8", "more than one format"),
        ("efficientnet_lite0#nvjpeg#int8", "where no GPU decodes"),
    ):
        with pytest.raises(BadInput, match=said):
            get_backbone(recipe)
    made = {"graph": np.frombuffer(b"<net/>", np.uint8), "weights": np.zeros(1, np.uint8)}
    save_file(made, tmp_path / "net.safetensors")
    broken = get_backbone(f"{NAME}:{tmp_path / 'net.safetensors'}")
    with monkeypatch.context() as patch:
        patch.setattr(int8, "MULTIPLIES", set())
        with pytest.raises(BadInput, match="needs a processor that adds products of 8 bits in 32"):
            make_engine(broken, None, ONE)
    if processor_can():
        with pytest.raises(BadInput, match="OpenVINO cannot read the graph in"):
            make_engine(broken, None, ONE)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"runs on the CPU\. Give --device cpu"):
        make_engine(broken, None, Machine(devices=("cuda:0",)))


def test_names_are_taken_apart() -> None:
    assert Int8Name.parse("a#int8") == Int8Name("a")
    assert Int8Name.parse("a@w.pt#int8@0123456789ab") == Int8Name("a@w.pt", hash="0123456789ab")
    assert Int8Name.parse("onnx:n.onnx#int8:/x/y.safetensors") == Int8Name("onnx:n.onnx", file="/x/y.safetensors")
    assert Int8Name.parse("a#bf16") is None
    assert without_endings("hf:m#int8@0123456789ab#photometry") == "hf:m"


def test_a_file_is_kept_under_what_it_is(tmp_path: Path) -> None:
    name = keep(tmp_path, b"net")
    assert re.fullmatch("[0-9a-f]{12}", name)
    assert in_store(tmp_path, name).read_bytes() == b"net"


def test_the_absent_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['nncf'] = None\n"
        "import numpy as np\n"
        "from crossmedia.imgserver.vision.int8 import quantized\n"
        "try: quantized(None, np.zeros((32, 8, 8, 3), np.uint8), 'x')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert re.match(r"BadInput #int8 needs nncf .*crossmedia\[int8\]", said), said
