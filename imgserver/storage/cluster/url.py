"""Where a cluster is: ``redis://[user:password@]host[:port][,host[:port]…]``, ``rediss://`` for TLS."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from crossmedia.errors import BadInput

DEFAULT_PORT = 6379
_FORM = re.compile(r"(rediss?)://(?:([^:@/]*):([^@/]*)@)?([^@/]+)/?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?")


@dataclass(frozen=True)
class RedisUrl:
    """A cluster, or one Redis. Printed, it has no password.

    Attributes:
        hosts: nodes to begin with; the cluster tells the others.
        user: empty for the default user.
        password: empty for none.
        tls: whether connections are encrypted.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"redis{'s' if self.tls else ''}://{hosts}"

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Read a URL.

        Raises:
            BadInput: it is none.
        """
        found = _FORM.fullmatch(text)
        hosts = [_HOST.fullmatch(host.strip()) for host in found[4].split(",")] if found else []
        if not found or not all(hosts) or not all(0 < int(host[2] or 1) < 65536 for host in hosts if host):
            raise BadInput(
                f"{re.sub('//[^@]*@', '//…@', text)!r} does not name a Redis cluster; write it as "
                f"redis://host:port,host:port or redis://user:password@host:port."
            )
        return cls(
            tuple((host[1].strip("[]"), int(host[2] or DEFAULT_PORT)) for host in hosts if host),
            unquote(found[2] or ""),
            unquote(found[3] or ""),
            found[1] == "rediss",
        )
