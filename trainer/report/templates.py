"""The templates of the pages: all that is put into them is escaped."""

from __future__ import annotations

import jinja2

from crossmedia.words import percent


def template(name: str) -> jinja2.Template:
    """A page without its facts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossmedia.trainer.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"share": share, "percent": percent}
    return environment.get_template(name)


def share(value: float, low: float, high: float) -> str:
    """Where a number lies between two others, in hundredths, for a style: ``37.5%``."""
    place = (value - low) / (high - low) if high > low else 0.5
    return f"{100 * min(1.0, max(0.0, place)):.2f}%"
