"""``name=value`` texts to the options of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.trainer.models import options_of, unknown_option
from crossmedia.words import number_in


def parse_options(model: str, texts: Iterable[str]) -> dict[str, Any]:
    """Options of a model, each of the type of its default.

    ``light.hidden=80,40`` is an option of the net that the model's own option ``light`` names.

    Raises:
        BadInput: a text is no ``name=value``, or the model has no such option, or the value is of another type.
    """
    options: dict[str, Any] = {}
    inner: dict[str, list[str]] = {}
    known = options_of(model)
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        net, dot, rest = name.partition(".")
        if not equals:
            raise BadInput(f"The option {text!r} is no name=value, such as hidden=200,80.")
        if dot and f"{net}_options" in known:
            inner.setdefault(net, []).append(f"{rest}={value}")
        elif name not in known or name.endswith("_options"):
            raise BadInput(unknown_option(model, name))
        else:
            options[name] = _value(name, value, known[name])
    for net, of_net in inner.items():
        options[f"{net}_options"] = parse_options(options.get(net, known[net]), of_net)
    return options


def parse_options_of(models: Sequence[str], texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Options of several models, such as ``din.hidden=200,80``, by the name of each.

    Raises:
        BadInput: as ``parse_options``, or a text begins with none of these models.
    """
    of_each: dict[str, list[str]] = {}
    for text in texts:
        model, dot, rest = text.strip().partition(".")
        if not dot or model not in models:
            raise BadInput(
                f"The option {text!r} begins with no model that is compared, as {models[0]}.NAME=VALUE does; these "
                f"are: {', '.join(models)}.{did_you_mean(model, models)}"
            )
        of_each.setdefault(model, []).append(rest)
    return {model: parse_options(model, of_model) for model, of_model in of_each.items()}


def _value(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(number_in(part.strip(), int) for part in text.split(",") if part.strip())
        return number_in(text, type(default)) if isinstance(default, int | float) else type(default)(text)
    except (KeyError, ValueError) as error:
        kind = "whole numbers separated by commas" if isinstance(default, tuple) else type(default).__name__
        raise BadInput(f"The option {name} is {text!r}; it must be like its default {default!r} ({kind}).") from error
