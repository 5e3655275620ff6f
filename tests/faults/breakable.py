"""A process that has imported the image server, and forks itself for each command, which it breaks at a chosen step.

{"arguments": […], "mode": 0, "step": 0, "below": "/store"}   ->   {"code": 0, "steps": 41, "said": "…"}
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import sys
import tempfile
import traceback

import click

from crossmedia.features.cli import features
from crossmedia.imgserver.cli import imgserver

GROUPS: dict[str, click.Group] = {"imgserver": imgserver, "features": features}
OFFLINE = ("compress", "exchange", "export", "merge", "moving", "publish")
SIMILARITY = ("building", "duplicates", "index", "semantic_ids")
HEAVY = (
    "faiss",
    "crossmedia.imgserver.storage.table",
    "crossmedia.imgserver.operations.backup",
    *(f"crossmedia.imgserver.offline.{n}" for n in OFFLINE),
    *(f"crossmedia.imgserver.similarity.{n}" for n in SIMILARITY),
)


def run(arguments: list[str]) -> int:
    try:
        GROUPS[arguments[0]](arguments[1:], prog_name=arguments[0])
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    counter = mmap.mmap(-1, 8)
    steps = ctypes.c_long.from_buffer(counter)
    preloaded = ctypes.CDLL(None)
    replies, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    for line in requests:
        told = json.loads(line)
        steps.value = 0
        with tempfile.TemporaryFile() as said:
            if not (child := os.fork()):
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                below, step = told["below"].encode(), ctypes.c_long(told["step"])
                preloaded.breaking_arm(told["mode"], step, below, ctypes.byref(steps))
                code = run(told["arguments"])
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            found = {"code": code, "steps": steps.value, "said": said.read().decode(errors="replace")}
        print(json.dumps(found), file=replies, flush=True)


if __name__ == "__main__":
    main()
