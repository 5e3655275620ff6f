"""A daemon that is no image server: it greets over HTTP. Started as ``greeter.py --folder FOLDER [--port PORT]``."""

from __future__ import annotations

import argparse
import http.server
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.service.ports import check_free
from crossmedia.service.process import run
from crossmedia.service.running import Daemon, Program


class Greeter(Program):
    @property
    def argv(self) -> list[str]:
        return [sys.executable, __file__]


GREETER = Greeter("greeter", "greet", "folder")


class Greeting(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")


@contextmanager
def listening(port: int) -> Iterator[Daemon]:
    check_free("127.0.0.1", port)
    with http.server.ThreadingHTTPServer(("0.0.0.0", port), Greeting) as server:
        server.daemon_threads = False  # so that closing it waits for those under way
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Daemon(os.getpid(), f"0.0.0.0:{server.server_port}")
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    try:
        run(GREETER, given.folder, lambda: listening(given.port), lambda daemon: print(daemon.address, flush=True))
    except BadInput as error:
        print(f"greet serve: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
