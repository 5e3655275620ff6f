"""Real redis-server processes in cluster mode, each with a folder of its own, that can be killed and started again."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


def free_port() -> int:
    """A port that is free, and so is the one of the cluster's bus, 10,000 above it."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            for taken in (port, port + 10_000):
                socket.create_server(("127.0.0.1", taken)).close()
        except OSError:
            continue
        return port


def cli(port: int, *words: str) -> str:
    """What redis-cli answers."""
    return subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=20).stdout


class RedisNode:
    """One redis-server.

    Args:
        folder: of its files.
        options: of redis-server.
    """

    def __init__(self, folder: Path, *options: str):
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
        self.folder, self.port, self._options = folder, free_port(), options
        folder.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Start it, with the files it left; return when it answers."""
        options = ["--port", str(self.port), "--dir", str(self.folder), "--save", "", *self._options]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(["redis-server", *options], stdout=log)
        deadline = time.monotonic() + 20
        while not any(word in cli(self.port, "ping") for word in ("PONG", "NOAUTH")):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


class RedisCluster:
    """Three nodes, a third of the slots each, no replicas.

    Args:
        folder: of their files.
        options: of redis-server.
    """

    def __init__(self, folder: Path, *options: str):
        mode = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        options = (*mode, "--cluster-require-full-coverage", "no", *options)
        self.nodes = [RedisNode(folder / str(i), *options) for i in range(3)]
        hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
        self.url = "redis://" + ",".join(hosts)
        command = ["redis-cli", "--cluster", "create", *hosts, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self.wait()

    def wait(self) -> None:
        """Until every node says that the cluster is whole."""
        deadline = time.monotonic() + 20
        for node in self.nodes:
            while "cluster_state:ok" not in cli(node.port, "cluster", "info"):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def close(self) -> None:
        """Kill all."""
        for node in self.nodes:
            node.kill()
