"""What ``crossmedia browse`` is started with; the options of the command are made of this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from crossmedia.hosts import listening_at
from crossmedia.options import Text

_File = Annotated[Path | None, click.Path(dir_okay=False, path_type=Path)]


@dataclass(frozen=True)
class BrowseConfig:
    """How the pages are served, and what they show.

    Attributes:
        server: address of the image server; of servers that each own a part, all of them with commas.
        runs: folder of runs and comparisons, for the page of runs.
        samples: folder of samples, for impressions and for the colours of the map.
        host: address to listen at; the default is reached from this machine only.
        port: port to listen at; 0 takes a free one.
        tls_cert: PEM file of the certificate of these pages: browsers are answered by TLS alone.
        tls_key: PEM file of its key, readable by its owner alone.
        tokens: file of lines 'name scope token', readable by its owner alone: browsers are asked for a name and a
            password, which is the token. Without it everybody who reaches the address sees the photos.

    Example:
        >>> from crossmedia.imgserver.browse.settings import BrowseConfig
        >>> BrowseConfig("images.example.com:7070").address
        '127.0.0.1:7090'
    """

    server: Annotated[str, Text("host:port")] = "localhost:7070"
    runs: Annotated[Path | None, click.Path(exists=True, file_okay=False, path_type=Path)] = None
    samples: Annotated[Path | None, click.Path(exists=True, file_okay=False, path_type=Path)] = None
    host: str = "127.0.0.1"
    port: Annotated[int, click.IntRange(0, 65535)] = 7090
    tls_cert: _File = None
    tls_key: _File = None
    tokens: _File = None

    @property
    def address(self) -> str:
        """``host:port`` or ``[IPv6]:port``.

        Raises:
            BadInput: the host is none.
        """
        return listening_at(self.host, self.port)
