"""The command ``crossmedia``, from its first moment: Ctrl-C is heard before anything is imported that takes long."""

from crossmedia.interrupts import end_on_signals

end_on_signals()


def main() -> None:
    """Entry point."""
    from crossmedia.cli import crossmedia
    from crossmedia.config import run

    run(crossmedia, "CROSSMEDIA")
