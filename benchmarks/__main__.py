"""``python -m benchmarks``: the benchmarks, and the question that each answers."""

from __future__ import annotations

import ast
from pathlib import Path

HELPERS = (
    "__init__",
    "__main__",
    "gpu_encode",
    "gpu_learn",
    "gpu_train",
    "load",
    "parts",
    "peers",
    "plot",
    "plot_exchange",
    "plot_fashion",
    "plot_whitebox",
    "plot_worth",
    "repeated",
    "serving_peers",
    "whitebox_bank",
    "whitebox_disentangled",
    "whitebox_ebm",
    "whitebox_interventions",
    "whitebox_kept",
    "whitebox_rendering",
    "whitebox_runs",
    "whitebox_speed",
    "whitebox_study",
    "whitebox_tables",
    "whitebox_truth",
)


def questions() -> dict[str, str]:
    """Name of each benchmark, and the first line of its description."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if file.stem not in HELPERS)
    return {file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0] for file in files}


if __name__ == "__main__":
    for name, question in questions().items():
        print(f"python -m benchmarks.{name:15} {question}")
