"""``python -m features`` is ``crossmedia features``."""

from crossmedia.interrupts import end_on_signals

end_on_signals()  # before what takes long to import

from crossmedia.config import run  # noqa: E402
from crossmedia.features.cli import features  # noqa: E402

run(features, "CROSSMEDIA_FEATURES")
