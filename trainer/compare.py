"""The same models with ids only and with images, over several seeds: one table, and one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imgserver.client import Transport
from imgserver.errors import BadInput
from trainer.checkpoint import CONFIG, METRICS
from trainer.fit import FitConfig, fit
from trainer.metrics import rela_impr

COMPARISON = "compare.json"
METRIC_NAMES = ("auc", "gauc", "log_loss")


@dataclass(frozen=True)
class CompareConfig:
    """Which runs.

    Attributes:
        base: configuration of every run; model, images, seed and out are set for each.
        models: names in ``MODELS``.
        seeds: how many: 0, 1, …
        reference: JSON file with the best AUC that any model could reach, known for simulated clicks only.
    """

    base: FitConfig
    models: tuple[str, ...]
    seeds: int
    reference: Path | None = None


def compare(
    config: CompareConfig,
    transport: Transport | None = None,
    announce: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Train what is not trained yet, and write ``compare.json``: rows, the sentence, the runs' folders.

    Raises:
        BadInput: the reference file is none.
        CrossMediaError: what ``fit`` raises.
    """
    reference = _reference(config.reference)
    out = Path(config.base.out)
    runs: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for seed in range(config.seeds):
        for model in config.models:
            for images in (False, True):
                name = f"{model}-{'images' if images else 'ids'}-{seed}"
                run = replace(config.base, model=model, images=images, seed=seed, out=str(out / name))
                found = _finished(run)
                announce(f"{name}: {'done before' if found else 'training'}")
                found = found or fit(run, transport, progress)
                runs.setdefault((model, images), []).append({"folder": name, **found})
    rows = [
        _row(model, images, runs[model, images], runs[model, False])
        for model in config.models
        for images in (False, True)
    ]
    result = {
        "samples": config.base.samples,
        "seeds": config.seeds,
        "rows": rows,
        "reference": reference,
        "sentence": sentence(rows),
        "runs": {f"{m}-{'images' if i else 'ids'}": [run["folder"] for run in found] for (m, i), found in runs.items()},
    }
    (out / COMPARISON).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _reference(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {"name": found["name"], "test": {k: float(v) for k, v in found["test"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"The reference file {path} cannot be used: {error}.") from error


def _finished(run: FitConfig) -> dict[str, Any] | None:
    """Metrics of a run that was finished with the same configuration, or None."""
    folder = Path(run.out)
    try:
        config = json.loads((folder / CONFIG).read_text())["fit"]
        metrics: dict[str, Any] = json.loads((folder / METRICS).read_text())
    except (OSError, ValueError, KeyError):
        return None
    ignored = {"server": "", "out": ""}
    return metrics if {**config, **ignored} == {**asdict(run), **ignored} else None


def _mean_std(values: Sequence[float]) -> dict[str, float | None] | None:
    if any(value is None for value in values):
        return None
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _row(model: str, images: bool, runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "images": images, "seeds": len(runs)}
    for part in ("all", "unseen_items"):
        row[part] = {name: _mean_std([run["test"][part].get(name) for run in runs]) for name in METRIC_NAMES}
        row[part] |= {"auc_gain": None, "rela_impr": None}
        pairs = [
            (run["test"][part].get("auc"), other["test"][part].get("auc"))
            for run, other in zip(runs, base, strict=True)
        ]
        if images and all(a is not None and b is not None for a, b in pairs):
            row[part]["auc_gain"] = _mean_std([a - b for a, b in pairs])
            row[part]["rela_impr"] = _mean_std([rela_impr(a, b) for a, b in pairs])
        row[part]["rows"] = runs[0]["test"][part]["rows"]
    row["train"] = {
        name: float(np.mean([run["train"][name] for run in runs]))
        for name in (
            "samples_per_s",
            "images_per_s",
            "bytes_per_sample",
            "bytes_received",
            "images_computed",
            "seconds",
        )
    }
    return row


def sentence(rows: list[dict[str, Any]]) -> str:
    """Whether the pictures helped: a difference counts when it is above twice its standard error over the seeds."""
    parts = []
    for row in rows:
        for part, where in (("all", ""), ("unseen_items", " on items unseen in training")):
            gain = row[part]["auc_gain"]
            if not row["images"] or gain is None:
                continue
            change = f"AUC {gain['mean']:+.4f}"
            if gain["std"] is None:
                verdict = "changed"  # one seed says by how much, and nothing on whether that is chance
            else:
                change += f" ± {gain['std']:.4f}"
                verdict = "helped" if gain["mean"] > 0 else "hurt"
                if abs(gain["mean"]) <= 2 * gain["std"] / np.sqrt(row["seeds"]):
                    verdict = "made no difference that these seeds can tell to"
            parts.append(f"{verdict} {row['model']}{where} ({change})")
    if not parts:
        return "No run with images can be compared with one without."
    caveat = " One seed cannot tell a difference from chance." if rows[0]["seeds"] < 2 else ""
    return f"The pictures {'; '.join(parts)}.{caveat}"
