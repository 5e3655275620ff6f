"""``python -m trainer`` is ``crossmedia trainer``."""

from imgserver.config import run
from trainer.cli import trainer

run(trainer, "CROSSMEDIA_TRAINER")
