"""Where a manifest may lead: below the folders that are read, and to object stores and web servers; nowhere else.

A manifest may come from somebody else than who runs the server. To fsspec ``file://``, ``zip://``, ``git://`` and
others are URLs too, and mean files of this machine.
"""

from __future__ import annotations

import os
import re
from shlex import quote

import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import is_url, root_of
from crossmedia.imgserver.storage.catalogue.local import LocalFiles

REMOTE = ("s3", "s3a", "https", "http", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "oci", "oss", "swift")


def check_uris(uris: pa.Array, manifest: str, local: LocalFiles) -> None:
    """Look at all uris of a manifest before the first is opened; links are followed when they are.

    Args:
        uris: strings.
        manifest: its path or URL.
        local: what reads files of this machine.

    Raises:
        BadInput: one of them leads to where it must not.
    """
    protocols = {*REMOTE, manifest.partition("://")[0]} if is_url(manifest) else REMOTE
    url = pc.match_substring(uris, "://")
    known = pc.match_substring_regex(uris, f"^({'|'.join(map(re.escape, protocols))})://")
    _refuse(uris.filter(pc.and_not(url, known)), manifest, "is read by a protocol that a manifest may not name")
    _refuse(uris.filter(pc.match_substring(uris, "\0")), manifest, "holds a zero byte")
    outward = pc.and_not(pc.match_substring_regex(uris, r"^/|(^|/)\.\.(/|$)"), url)
    if is_url(manifest):
        _refuse(uris.filter(outward), manifest, "leads out of the manifest's folder")
        return
    names = uris.filter(outward)
    # A folder once, not each of its millions of photos.
    for folder in pc.unique(pc.replace_substring_regex(names, r"[^/]*$", "")).to_pylist():
        if not local.allows(os.path.join(root_of(manifest), folder)):
            raise BadInput(
                f"The manifest {manifest} leads to {folder!r}, out of its own folder. If photos may be read there, "
                f"say so: --photo-root {quote(os.path.normpath(os.path.join(root_of(manifest), folder)))}"
            )


def _refuse(wrong: pa.Array, manifest: str, why: str) -> None:
    if len(wrong):
        raise BadInput(f"The manifest {manifest} names {wrong[0].as_py()!r}, which {why}.")
