"""What all pages share: one style, one script that sorts tables, and a policy by which nothing else runs or is loaded.

A page is one file that needs no network. What catalogues and logs call things is escaped where it is put in; were it
not, the policy would still keep a browser from running it.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files

_FILES = files("crossmedia")
STYLE = _FILES.joinpath("style.css").read_text(encoding="utf-8")
SCRIPT = _FILES.joinpath("page.js").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (  # the page's own style, that script, photos within the file, and no request
    f"default-src 'none'; script-src 'sha256-{_DIGEST}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def page(title: str, body: str) -> str:
    """A page as one HTML file.

    Args:
        title: of its tab, as text.
        body: HTML, in which all names are escaped.

    Example:
        >>> from crossmedia.pages import page
        >>> "<title>1 &lt; 2</title>" in page("1 < 2", "<p>so it is</p>")
        True
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
