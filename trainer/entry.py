"""The command ``crossmedia``, from its first moment: Ctrl-C is heard before anything is imported that takes long."""

from imgserver.interrupts import end_on_signals

end_on_signals()


def main() -> None:
    """Entry point."""
    from imgserver.config import run
    from trainer.cli import crossmedia

    run(crossmedia, "CROSSMEDIA")
