"""A command imports what it needs: who asks what there is does not wait for what trains and embeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import copy_store

HEAVY = (
    *("torch", "numba", "openvino", "faiss", "pandas", "scipy", "matplotlib", "PIL", "lightgbm", "fsspec"),
    *(
        "crossmedia.imgserver.serving",
        "crossmedia.imgserver.vision",
        "crossmedia.imgserver.offline",
        "crossmedia.imgserver.operations",
        "crossmedia.trainer.layers",
    ),
)
COMMANDS = """
import json, sys
from click.testing import CliRunner
from crossmedia.cli import crossmedia

store, heavy = sys.argv[1], json.loads(sys.argv[2])
of_store = [f"--store={store}"]
found = {}
for command in (
    ["--help"], ["imgserver", "--help"], ["trainer", "--help"], ["features", "--help"], ["trainer", "models"],
    ["imgserver", "precompute", "--help"], ["trainer", "fit", "--help"], ["features", "build", "--help"],
    ["imgserver", "versions", *of_store], ["imgserver", "serve", "--background", "--port=0", *of_store],
    ["imgserver", "health", "--wait", *of_store], ["imgserver", "info", *of_store],
    ["imgserver", "stop", *of_store],
):
    done = CliRunner().invoke(crossmedia, command)
    assert done.exit_code == 0, (command, done.output)
    words = " ".join(word for word in command if not word.startswith("--store"))
    found[words] = [name for name in heavy if sys.modules.pop(name, None)]
print(json.dumps(found))
"""


def test_commands_that_only_look_import_nothing_heavy(graph_cache: Path, tmp_path: Path) -> None:
    """Each of them took 3 s of CPU, of which torch and numba were most."""
    store = copy_store(graph_cache, tmp_path / "store")
    heavy = json.dumps([*HEAVY, "pyarrow"])
    command = [sys.executable, "-c", COMMANDS, str(store), heavy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 13
    assert {command: names for command, names in found.items() if names} == {
        "imgserver health --wait": ["pyarrow"]  # of the client, which reads ids in any type; it is the first to call
    }
