"""Start the command ``crossmedia``. Ctrl-C works from the first moment, before slow imports."""

from crossmedia.interrupts import end_on_signals

end_on_signals()


def main() -> None:
    """Entry point."""
    from crossmedia.cli import crossmedia
    from crossmedia.config import run

    run(crossmedia, "CROSSMEDIA")
