"""What is installed: the wheel, in an environment of its own, beside folders that have the names of our rooms."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, DaemonProcess
from made_samples import make_samples

WANTED = re.compile(r"[<>=!~ ;\[(]")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={out}", str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("crossmedia-*.whl"))


def environment(place: Path, wheel: Path) -> tuple[Path, Path]:
    """A new environment that holds the wheel alone: its python, and its site-packages."""
    venv.create(place, with_pip=False)
    site = next((place / "lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    return place / "bin" / "python", site


def link_base_dependencies(site: Path) -> set[str]:
    """The base dependencies, and theirs, linked from the environment of the tests."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted, done = [WANTED.split(dependency)[0] for dependency in dependencies], set[str]()
    while wanted:
        name = wanted.pop()
        if name.lower() in done:
            continue
        done.add(name.lower())
        distribution = metadata.distribution(name)
        for file in distribution.files or []:
            source, target = Path(str(distribution.locate_file(file))), site / str(file)
            if ".." in str(file) or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(source, target)
        wanted += [WANTED.split(r)[0] for r in distribution.requires or [] if "extra ==" not in r]
    return done


def test_the_wheel_holds_what_runs_below_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"crossmedia"}
    for needed in ("v1/image_server_pb2.py", "trainer/report/page.html", "py.typed", "imgserver/commands/daemon.py"):
        assert f"crossmedia/{needed}" in names


@pytest.mark.slow
def test_the_base_install_alone_fetches_vectors(wheel: Path, tmp_path: Path, daemon: DaemonProcess) -> None:
    python, site = environment(tmp_path / "venv", wheel)
    assert "torch" not in link_base_dependencies(site)
    code = f"import crossmedia; print(crossmedia.ImageClient({daemon.address!r}).get([1, 2]).ok.tolist())"
    run = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[True, True]", run.stderr
    asked = [str(python), "-m", "crossmedia.imgserver", "precompute", "--catalogue=x"]
    lacking = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert lacking.returncode == 2
    assert 'pip install "crossmedia[server]"' in lacking.stderr


def test_the_import_alone_costs_nothing(wheel: Path, tmp_path: Path) -> None:
    python, _ = environment(tmp_path / "venv", wheel)  # without any dependency
    code = "import sys; before = set(sys.modules); import crossmedia; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = eval(done.stdout)
    assert "crossmedia" in loaded
    assert not [name for name in loaded if name.split(".")[0] in ("numpy", "grpc", "torch", "pyarrow", "click")]


@pytest.mark.slow
def test_a_users_own_trainer_features_and_imgserver_are_left_alone(
    wheel: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    """Every block of Python in the README and its commands for training, torchrun's too, in a folder of such names."""
    python, site = environment(tmp_path / "venv", wheel)
    packages = metadata.distribution("torch").locate_file("")
    (site / "of_the_tests.pth").write_text(f"{packages}\n")
    here = tmp_path / "shop"
    here.mkdir()
    for name in ("trainer.py", "features/__init__.py", "imgserver/__init__.py", "protos/__init__.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("raise RuntimeError('this is the shop’s own')\n")
    make_samples(here, 20, 1200, {i: i for i in range(20)})
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=here, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL):
        run("-c", block.replace("localhost:7070", daemon.address))
    command = ("-c", "from crossmedia.entry import main; main()")
    fit = ("fit", "--samples=samples", "--no-images", "--epochs=1", "--batch-size=64")
    run(*command, "trainer", *fit, "--model=din", "--out=runs/din")
    compare = ("compare", "--samples=samples", "--models=din", "--seeds=1", "--epochs=1", f"--server={daemon.address}")
    run(*command, "trainer", *compare, "--max-missing=1", "--out=runs/compare")
    run(*command, "trainer", "report", "runs/compare", f"--server={daemon.address}", "--out=report.html")
    run(*command, "trainer", "export", "runs/din", "--out=din.pt2")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "crossmedia.trainer")
    run(*torchrun, *fit, "--model=din", "--out=runs/two")
    for made in ("runs/two/model.safetensors", "report.html", "din.pt2"):
        assert (here / made).stat().st_size > 0
    where = run("-c", "import crossmedia.trainer.fit as f; print(f.__file__)")
    assert where.startswith(str(site))
