"""What a file that is whole may still be refused for."""

from __future__ import annotations

from crossmedia.errors import BadInput


class Unusable(BadInput):
    """The file may be whole, and cannot be used here: what runs it is missing, is another, or nobody vouches for it."""
