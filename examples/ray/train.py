r"""Train one model by the workers of a Ray cluster: the loop of ``trainer fit``, started by Ray Train.

    python examples/ray/train.py --workers 2 \
      --fit '{"samples": "samples", "server": "localhost:7070", "out": "runs/ray"}'

``--fit`` takes what ``trainer fit`` takes, as JSON with underscores. Samples and the run folder must be where every
worker sees them. When a worker dies Ray starts all of them again, and they go on from the last epoch. Needs Ray's own
packages: pip install "ray[train]" (GPUs: each worker takes one with --gpu).
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def work(fit_config: dict[str, Any]) -> None:
    """What each worker does; Ray has joined them before."""
    from crossmedia.trainer.fit import FitConfig, fit

    fit(FitConfig(**fit_config))


def main() -> None:
    """Start the workers, on the cluster of ``RAY_ADDRESS`` or on this machine."""
    parser = argparse.ArgumentParser(description="Train one model by the workers of a Ray cluster.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker, and nccl between them")
    parser.add_argument("--failures", type=int, default=3, help="restarts before giving up")
    parser.add_argument("--fit", required=True, help="what trainer fit takes, as JSON")
    arguments = parser.parse_args()
    config = {"device": "cuda" if arguments.gpu else "cpu", **json.loads(arguments.fit)}
    config["out"], config["samples"] = os.path.abspath(config["out"]), os.path.abspath(config["samples"])
    TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=TorchConfig("nccl" if arguments.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=arguments.workers, use_gpu=arguments.gpu),
        run_config=RunConfig(
            # Hidden, for a run folder holds nothing else.
            storage_path=os.path.join(config["out"], ".ray"),
            failure_config=FailureConfig(arguments.failures),
        ),
    ).fit()
    print(f"run folder: {config['out']}")


if __name__ == "__main__":
    main()
