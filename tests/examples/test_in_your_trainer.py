"""Trainers of others, with vectors in their batches: each example is run as its user runs it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_pictures_help_in_a_trainer_of_others(name: str, clicks: Path, daemon: DaemonProcess) -> None:
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; see {EXAMPLES.name}/requirements.txt")
    command = [sys.executable, "-c", RUN, str(EXAMPLES / f"{name}.py"), str(clicks), daemon.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(ids only|with pictures): test AUC ([0-9.]+)$", done.stdout, flags=re.MULTILINE))
    assert float(found["ids only"]) > 0.6
    # One seed, and vectors of 16 numbers: from .0100 (FuxiCTR) up. It was .01 before FuxiCTR had run with this store.
    assert float(found["with pictures"]) > float(found["ids only"]) + 0.005


def test_there_is_a_test_of_each_and_each_is_short() -> None:
    files = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*NEEDS, "clicks"}
    for path in files.values():
        assert len(path.read_text().splitlines()) < 80, path
