"""From the bytes of one text to the text that an encoder takes. A bad text raises here, alone, before any batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TEXT_BYTES = 64 << 10
NOTHING_KNOWN = (
    "the encoder can do nothing with it (one that was fitted knows texts that share characters with those that it was "
    "fitted on)"
)

# A text on its way to an encoder: an array without dimensions, where a picture has some.
Text = npt.NDArray[np.str_]


class BadText(ValueError):
    """The bytes are no text, or there is nothing in it."""


class TextTooLong(ValueError):
    """It has more bytes than are read."""


@dataclass(frozen=True)
class TextReading:
    """How texts are read for an encoder; every field is part of the encoder's version.

    Attributes:
        max_bytes: of a text in UTF-8; a longer one is refused, not cut.
    """

    max_bytes: int = MAX_TEXT_BYTES

    def read(self, data: bytes) -> Text:
        """One text, without the blanks around it.

        Raises:
            TextTooLong: it has more than ``max_bytes``.
            BadText: it is no UTF-8, or empty.
        """
        if len(data) > self.max_bytes:
            raise TextTooLong(f"the text has more than {self.max_bytes} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise BadText(f"its bytes are no UTF-8 text ({error.reason} at byte {error.start})") from error
        text = text.replace("\0", " ").strip()
        if not text:
            raise BadText("the text is empty")
        return np.array(text)
