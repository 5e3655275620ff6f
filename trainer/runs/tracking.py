"""A run in MLflow: its settings, metrics of each epoch, figures of the test part, and versions of vectors as tags.

A tracking server that cannot be reached ends a run before it is trained. Later it is to look at, as the curves of
``board`` are: what it does not take any more is said once, and the training goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crossmedia.errors import BadInput

log = logging.getLogger(__name__)

EXPERIMENT = "crossmedia"  # where MLFLOW_EXPERIMENT_NAME, which is MLflow's own, does not name another
INSTALL = 'MLflow is not installed. Install it with: pip install "crossmedia[mlflow]"'
# MLflow's defaults keep trying for minutes; whoever sets these has them.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
MAX_PARAM = 6000  # characters; MLflow's limit
Facts = Mapping[str, Any]


class Tracking:
    """One run at a tracking server.

    Args:
        uri: of the server, or file:… ; empty: nothing is written.
        name: of the run.
        params: what it was told.
        tags: what else there is to say of it.

    Raises:
        BadInput: MLflow is not installed, the address holds a password, or the server does not take the run.
    """

    def __init__(self, uri: str, name: str, params: Facts, tags: Facts):
        self._client: Any = None
        if not uri:
            return
        if urlsplit(uri).password is not None:
            raise BadInput(
                "The run folder keeps the address of MLflow, so it must hold no password: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
        for setting, value in PATIENCE.items():
            os.environ.setdefault(setting, value)
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise BadInput(INSTALL) from error
        self._refused = MlflowException
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        try:
            client = MlflowClient(tracking_uri=uri)
            there = client.get_experiment_by_name(experiment)
            made = there.experiment_id if there else client.create_experiment(experiment)
            self._run = client.create_run(made, tags=_text(tags), run_name=name).info.run_id
            client.log_batch(self._run, params=[Param(key, value) for key, value in _text(params).items()])
        except MlflowException as error:
            raise BadInput(f"MLflow at {uri} does not take the run: {error}. Nothing was trained.") from error
        self._client = client

    def epoch(self, line: Facts) -> None:
        """Take a line of the learning curve."""
        for name, value in line.items():
            if name not in ("epoch", "step") and value is not None:  # None: labels of one class have no AUC
                self._tell("log_metric", name.replace("_", "/", 1), value, step=line["epoch"])

    def ended(self, result: Facts) -> None:
        """Take what ``metrics.json`` holds: the figures of the test part, and the vectors that they are of."""
        for part, metrics in result["test"].items():
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._tell("log_metric", f"test/{part}/{name}", value)
        generations = {f"generation.{name}": generation for name, generation in result["generations"].items()}
        for name, value in _text({"vectors": result["vector_version"], **generations}).items():
            self._tell("set_tag", name, value)

    def close(self, *, failed: bool) -> None:
        """Say that the run has ended."""
        self._tell("set_terminated", "FAILED" if failed else "FINISHED")
        self._client = None

    def _tell(self, what: str, *told: Any, **more: Any) -> None:
        if self._client is None:
            return
        try:
            getattr(self._client, what)(self._run, *told, **more)
        except self._refused as error:
            self._client = None
            log.warning("MLflow does not get the rest of this run: %s", error)


@contextmanager
def tracked(uri: str, out: Path, params: Facts, tags: Facts) -> Iterator[Tracking]:
    """``Tracking`` for a block, whose failure is the run's."""
    tracking, failed = Tracking(uri, out.name, params, tags), True
    try:
        yield tracking
        failed = False
    finally:
        tracking.close(failed=failed)


def _text(facts: Facts) -> dict[str, str]:
    return {name: str(value)[:MAX_PARAM] for name, value in facts.items() if value not in ("", None)}
