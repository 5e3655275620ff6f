"""``python -m imgserver`` is ``crossmedia imgserver``."""

from imgserver.cli import imgserver
from imgserver.config import run

run(imgserver, "CROSSMEDIA_IMGSERVER")
