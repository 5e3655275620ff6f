"""``python -m trainer`` is ``crossmedia trainer``."""

from crossmedia.interrupts import end_on_signals

end_on_signals()  # before what takes long to import

from crossmedia.config import run  # noqa: E402
from crossmedia.trainer.cli import trainer  # noqa: E402

run(trainer, "CROSSMEDIA_TRAINER")
