"""Trainers of others, with vectors in their batches: each example is run as its user runs it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.csv as pc
import pytest
from conftest import ROOT, DaemonProcess

EXAMPLES = ROOT / "examples" / "in_your_trainer"
# Each of them, and the packages that it needs.
NEEDS = {
    "plain_pytorch": (),
    "lightning_trainer": ("lightning",),
    "huggingface_datasets": ("datasets",),
    "torchrec_trainer": ("torchrec", "fbgemm_gpu"),
    "fuxictr_trainer": ("fuxictr",),
    "deepctr_trainer": ("deepctr_torch",),
}
# As in our own code, see imgserver/vision/torchvision_zoo.py: torchvision of PyPI does not import beside a CPU's torch.
RUN = """
import importlib.util, runpy, sys
if importlib.util.find_spec("torchvision"):
    from crossmedia.imgserver.vision.torchvision_zoo import import_torchvision
    import_torchvision()
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clicks")
    simulate = ROOT / "examples" / "grocery" / "simulate.py"
    subprocess.run([sys.executable, str(simulate), "--plain", f"--out={out}"], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def shuffled(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clicks, and each item with the picture of another: what a trainer gains from these is no picture."""
    out = tmp_path_factory.mktemp("shuffled")
    shutil.copytree(clicks, out, dirs_exist_ok=True)
    items = pc.read_csv(clicks / "items.csv")
    images = items["image_id"].take(np.random.default_rng(0).permutation(len(items)))
    pc.write_csv(items.set_column(items.schema.get_field_index("image_id"), "image_id", images), out / "items.csv")
    return out


def gain(running: subprocess.Popen[str]) -> float:
    """What the pictures add to the AUC of an example."""
    out, said = running.communicate(timeout=280)
    assert running.returncode == 0, said
    found = dict(re.findall(r"^(ids only|with pictures): test AUC ([0-9.]+)$", out, flags=re.MULTILINE))
    assert float(found["ids only"]) > 0.6
    return float(found["with pictures"]) - float(found["ids only"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_pictures_help_in_a_trainer_of_others_and_those_of_other_items_do_not(
    name: str, clicks: Path, shuffled: Path, daemon: DaemonProcess
) -> None:
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; see {EXAMPLES.name}/requirements.txt")
    command = [sys.executable, "-c", RUN, str(EXAMPLES / f"{name}.py")]
    one_thread, pipes = os.environ | {"OMP_NUM_THREADS": "1"}, {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen([*command, str(clicks), daemon.address], **pipes, text=True, env=one_thread) as right,  # type: ignore[call-overload]
        subprocess.Popen([*command, str(shuffled), daemon.address], **pipes, text=True, env=one_thread) as wrong,  # type: ignore[call-overload]
    ):
        of_pictures, of_others = gain(right), gain(wrong)
    assert of_pictures > 0
    assert of_others < of_pictures / 2, f"pictures of other items add {of_others:.4f}, the items' own {of_pictures:.4f}"


def test_there_is_a_test_of_each_and_each_is_short() -> None:
    files = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*NEEDS, "clicks"}
    for path in files.values():
        assert len(path.read_text().splitlines()) < 80, path
