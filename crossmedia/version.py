"""What vectors are good for: the name of a version, read and written here alone.

    <backbone>@<hash>[#bf16|#tf32|#int8][#photometry]     features of a backbone
    <features>+<head>@<hash>[#<codebook>]/<dim>     vectors that a head makes of them
    <name>@<hash>+imported/<dim>                    vectors that came from elsewhere

A backbone that reads texts begins with ``text:``.

Messages, files and reports carry it as text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

IMPORTED = "imported"  # in the place of the head: there is no feature and no photo behind the vectors
TEXT = "text:"  # begins the version of a backbone that reads texts, and the recipe of it
TOWER = "hf:"  # begins, behind it, one of two towers whose features are comparable: photos' and texts'
PHOTOMETRY = "#photometry"  # ends the version of a backbone behind whose numbers those of the pixels stand
HASH_DIGITS = 12


@dataclass(frozen=True)
class Version:
    """A version, taken apart.

    Attributes:
        backbone: version of the features; of imported vectors, what they are called.
        head: ``<name>@<hash>`` of what makes vectors of features, or ``imported``; empty: they are the features.
        codebook: ``<name>@<hash>`` of what the vectors are compressed by; empty: they are not.
        dim: numbers in a vector; 0 where the text does not say.
    """

    backbone: str
    head: str = ""
    codebook: str = ""
    dim: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read any text, the name of features and one that is no version at all among them: those have no head."""
        backbone, _, rest = text.partition("+")  # a backbone may have a # of its own
        made_by, slash, dim = (rest or text).rpartition("/")
        known = slash and dim.isascii() and dim.isdigit() and len(dim) < 10
        head, _, codebook = (made_by if known and rest else rest).partition("#")
        return cls(backbone, head, codebook, int(dim) if known else 0)

    def __str__(self) -> str:
        if not self.head:
            return self.backbone
        codebook = f"#{self.codebook}" if self.codebook else ""
        dim = f"/{self.dim}" if self.dim else ""
        return f"{self.backbone}+{self.head}{codebook}{dim}"

    @property
    def plain(self) -> Version:
        """The version that a compressed one was made of; any other as it is."""
        return replace(self, codebook="")

    @property
    def of_texts(self) -> bool:
        """Whether its backbone reads texts, and not pictures."""
        return self.backbone.startswith(TEXT)

    @property
    def made_of(self) -> str:
        """What one of its vectors was made of, for messages: a text, a photo, or, where nobody knows, a vector."""
        return "text" if self.of_texts else "vector" if self.imported else "photo"

    @property
    def of_tower(self) -> bool:
        """Whether its backbone is the image tower or the text tower of one model, whose features can be compared."""
        return self.backbone.removeprefix(TEXT).startswith(TOWER) and not self.with_photometry

    @property
    def with_photometry(self) -> bool:
        """Whether numbers of the pixels stand behind those of its backbone, the last of a feature."""
        return self.backbone.endswith(PHOTOMETRY)

    @property
    def imported(self) -> bool:
        """Whether the vectors came from elsewhere, so that no more of them can be computed here."""
        return self.head == IMPORTED


def place_and_version(text: str) -> tuple[str, str]:
    """What ``host:port@VERSION`` names: a place, and a version of what is there; empty where there is none."""
    place, _, version = text.partition("@")
    return place, version


def hashed(name: str, sha: str) -> str:
    """``<name>@<hash>``, of the hexadecimal digits of a SHA-256."""
    return f"{name}@{sha[:HASH_DIGITS]}"


def name_of(hashed_name: str) -> str:
    """What stands in front of the hash."""
    return hashed_name.partition("@")[0]
