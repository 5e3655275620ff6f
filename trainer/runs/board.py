"""Curves of a run for TensorBoard; they are to look at, so a disk that is full ends them and not the training."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

log = logging.getLogger(__name__)


class Board:
    """A file of events in a folder.

    Args:
        folder: is made; None: nothing is written, for of several processes one does.
        first_step: what files of a run that was killed say of this step and later ones does not count.
    """

    def __init__(self, folder: Path | None, first_step: int):
        self._file: RecordWriter | None = None
        if folder is None:
            return
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter(open(folder / name, "wb", buffering=0))  # noqa: SIM115
        except OSError as error:
            log.warning("the curves for TensorBoard are left out: %s", error)
        self._write(Event(file_version="brain.Event:2"))
        if first_step:
            self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        event.wall_time = time.time()
        try:
            self._file.write(event.SerializeToString())
        except OSError as error:
            self.close()
            log.warning("the curves for TensorBoard end here: %s", error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
