"""``python -m features`` is ``crossmedia features``."""

from features.cli import features
from imgserver.config import run

run(features, "CROSSMEDIA_FEATURES")
