"""``trainer fit --mlflow``: what a tracking server gets of a run, with a store of MLflow's own in a folder."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import DaemonProcess, run_command
from made_samples import make_samples

from crossmedia.errors import BadInput
from crossmedia.trainer.runs import tracking
from crossmedia.trainer.runs.tracking import Tracking, tracked


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path / 'mlflow'}"


def kept(uri: str, experiment: str = "crossmedia") -> list[Any]:
    """The runs that are there, the latest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_a_run_is_there_with_settings_metrics_and_versions(mlflow: str, daemon: DaemonProcess, tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 100, 2000, {i: i for i in range(100)})
    arguments = ("trainer", "fit", f"--samples={samples}", f"--server={daemon.address}", "--epochs=2", "--patience=9")
    done = run_command(*arguments, "--batch-size=256", f"--out={tmp_path / 'din'}", f"--mlflow={mlflow}", "--json")
    result = json.loads(done.stdout)
    (run,) = kept(mlflow)
    assert (run.info.run_name, run.info.status) == ("din", "FINISHED")
    assert run.data.params["model"] == "din"
    assert run.data.params["batch_size"] == "256"
    assert run.data.metrics["test/all/auc"] == pytest.approx(result["test"]["all"]["auc"])
    assert run.data.metrics["validation/auc"] == pytest.approx(result["curve"][-1]["validation_auc"])
    assert run.data.tags["vectors.image"] == run.data.tags["vectors"] == result["vector_version"]
    assert run.data.tags["generation.image"] == str(result["generations"]["image"])
    assert run.data.tags["samples"]

    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=mlflow).get_metric_history(run.info.run_id, "train/log_loss")
    assert [(one.step, one.value) for one in points] == [(n["epoch"], n["train_log_loss"]) for n in result["curve"]]

    again = run_command(*arguments, "--batch-size=256", f"--out={tmp_path / 'din'}", "--json")
    assert json.loads(again.stdout)["test"] == result["test"], "where metrics go makes no other run"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nosuch://x"])
@pytest.mark.filterwarnings("default")
def test_a_server_that_does_not_answer_ends_a_run_before_it_is_trained(
    mlflow: str, uri: str, daemon: DaemonProcess, tmp_path: Path
) -> None:
    samples = make_samples(tmp_path, 100, 400, {i: i for i in range(100)})
    arguments = ("trainer", "fit", f"--samples={samples}", f"--server={daemon.address}", f"--out={tmp_path / 'run'}")
    done = run_command(*arguments, f"--mlflow={uri}", check=False)
    assert done.returncode == 2
    assert f"MLflow at {uri} does not take the run" in done.stderr
    assert "Nothing was trained." in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.filterwarnings("default")
def test_a_run_that_fails_is_failed_and_a_server_that_goes_ends_no_run(
    mlflow: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shop")
    with pytest.raises(RuntimeError), tracked(mlflow, tmp_path / "one", {"seed": 1}, {}):
        raise RuntimeError("the loss is nan")
    (run,) = kept(mlflow, "shop")
    assert (run.info.status, run.data.params) == ("FAILED", {"seed": "1"})

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("the server has gone")

    monkeypatch.setattr(MlflowClient, "log_metric", gone)
    with caplog.at_level(logging.WARNING), tracked(mlflow, tmp_path / "two", {}, {}) as told:
        for epoch in (1, 2):
            told.epoch({"epoch": epoch, "step": 5, "train_log_loss": 0.5, "validation_auc": None})
    assert [one.message for one in caplog.records] == ["MLflow does not get the rest of this run: the server has gone"]


def test_a_password_in_the_address_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_PASSWORD"):
        Tracking("http://me:secret@mlflow:5000", "run", {}, {})
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r'pip install "crossmedia\[mlflow\]"'):
        Tracking("http://mlflow:5000", "run", {}, {})
    assert not hasattr(tracking, "MlflowClient")
