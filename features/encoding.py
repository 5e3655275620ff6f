"""How numbers, lists and texts of a folder of samples are read: the same for its rows and for requests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crossmedia.features.numbers import NumberScale
from crossmedia.features.spec import CHARACTERS, WORDS, Columns
from crossmedia.features.tokens import Tokenizer, file_text, tokenizer
from crossmedia.features.typed import typed


@dataclass(frozen=True)
class Encoding:
    """What was fitted or chosen when the samples were built.

    Attributes:
        numbers: column -> its scale.
        lists: column -> what stands between the entries in a text; empty for lists alone.
        tokens: text column -> ``words``, ``characters``, or a name in ``files``.
        files: name -> content of a file of Hugging Face's tokenizers.
    """

    numbers: dict[str, NumberScale] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, *tables: Columns) -> Encoding:
        """What the columns of some tables say; their numbers are to be fitted.

        Raises:
            BadInput: a tokenizer's file cannot be read.
        """
        lists: dict[str, str] = {}
        tokens: dict[str, str] = {}
        files: dict[str, str] = {}
        for table in tables:
            lists |= table.lists
            how = table.tokens
            if table.text and how not in (WORDS, CHARACTERS):
                content = file_text(how)
                tokenizer(how)  # so that a broken file is named by its path
                how = f"{Path(how).stem}@{hashlib.sha256(content.encode()).hexdigest()[:12]}"
                files[how] = content
            tokens |= dict.fromkeys(table.text, how)
        return cls({}, lists, tokens, files)

    def tokenizer(self, column: str) -> Tokenizer:
        """What finds the words of a text column.

        Raises:
            BadInput: the package for its file is missing.
        """
        how = self.tokens.get(column, WORDS)
        return tokenizer(how, (lambda: self.files[how]) if how in self.files else None)

    def json(self) -> str:
        """As text; the same for equal ones."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_json(cls, text: str | bytes) -> Encoding:
        """Read what ``json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        found = json.loads(text)
        scales = found.pop("numbers", {}) if isinstance(found, dict) else {}
        if not isinstance(scales, dict):
            raise ValueError("numbers are no object")
        plain = typed(cls, found)
        numbers = {name: typed(NumberScale, scale) for name, scale in scales.items()}
        return cls(numbers, plain.lists, plain.tokens, plain.files)
