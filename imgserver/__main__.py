"""``python -m imgserver`` is ``crossmedia imgserver``."""

from crossmedia.interrupts import end_on_signals

end_on_signals()  # before what takes long to import

from crossmedia.config import run  # noqa: E402
from crossmedia.imgserver.cli import imgserver  # noqa: E402

run(imgserver, "CROSSMEDIA_IMGSERVER")
