"""``python -m features`` is ``crossmedia features``."""

from imgserver.interrupts import end_on_signals

end_on_signals()  # before what takes long to import

from features.cli import features  # noqa: E402
from imgserver.config import run  # noqa: E402

run(features, "CROSSMEDIA_FEATURES")
