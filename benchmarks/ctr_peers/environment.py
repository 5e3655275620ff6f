"""The environment of the peers, ``.venv-peers``, made once and again when ``requirements.txt`` changes.

They are kept out of ours: together they bring ray, polars and pandas, and nothing of the project needs them. The peers
run on the CPU; where plain pip brings a CUDA build of torch, that build is not used.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class PeersUnavailable(RuntimeError):
    """The environment cannot be made."""


def peers_python() -> Path:
    """The environment's python; makes the environment anew when it is not there or of other requirements.

    Raises:
        PeersUnavailable: with the last words of what failed.
    """
    python, marker = FOLDER / "bin" / "python", FOLDER / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and marker.exists() and marker.read_text() == wanted:
        return python
    print(f"making {FOLDER.name} for the peers, once (2 GB, a few minutes)", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(FOLDER))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS))
    marker.write_text(wanted)  # last: an environment that was cut off is made anew
    return python


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeersUnavailable(f"{command[0]} cannot be run: {error}.") from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise PeersUnavailable(
            f"The peers' environment cannot be made; {' '.join(command[:4])} ended with {done.returncode}:\n{said}"
        )
