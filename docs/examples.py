"""Examples in docstrings as blocks of code: what stands under ``Example:`` would be a paragraph on the site."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^(?P<margin> *)Example:\n(?P<text>(?:(?P=margin) {4}.*\n|\n)+)", flags=re.MULTILINE)


def fenced(docstring: str) -> str:
    """The docstring with its example between fences; a sentence before the first line of code stays one."""

    def block(found: re.Match[str]) -> str:
        margin = f"{found['margin']}    "
        lines = found["text"].rstrip().splitlines()
        code = next((n for n, line in enumerate(lines) if line.startswith(f"{margin}>>>")), 0)
        return "\n".join(
            [f"{found['margin']}Example:", *lines[:code], f"{margin}```python", *lines[code:], f"{margin}```", ""]
        )

    return EXAMPLE.sub(block, f"{docstring}\n").rstrip("\n")


class Examples(Extension):
    """Takes every docstring that is shown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Put fences around its example."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
