"""The page of an item: its facts with photos, and in words."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from crossmedia.disk import replacing
from crossmedia.pages import page
from crossmedia.trainer.report.additive_runs import AdditiveRuns
from crossmedia.trainer.report.decides import outcome
from crossmedia.trainer.report.item_facts import ItemFacts, item_facts
from crossmedia.trainer.report.opened import opened
from crossmedia.trainer.report.photos import NO_PHOTOS, Names
from crossmedia.trainer.report.templates import template
from crossmedia.trainer.settings import ReportConfig

LARGE = 360  # pixels of the longest side of the item's own photos
HELPS, LEAST = 6, 0.005  # terms of each direction that are shown, and the least that they add


def write_item_page(config: ReportConfig, runs: AdditiveRuns) -> dict[str, Any]:
    """Write the page of the item that a report is asked for; what it says, as data.

    Raises:
        BadInput: the samples have no such item, or it cannot be compared so.
        CrossMediaError: what a server or the way to it raised.
    """
    with opened(config, runs) as found:
        facts = item_facts(found, config.item, config.category)
        own = found.photos(facts.photos, LARGE)
        small = found.photos(photo for one in facts.what_ifs for like in one.like for photo in like.photos[:1])
    named = [one for one in facts.concepts if one.named]
    helps = [one for one in named if one.adds.logit >= LEAST][:HELPS]
    hurts = [one for one in named if one.adds.logit <= -LEAST][:HELPS]
    shown = [*helps, *hurts, *(one.concept for one in facts.what_ifs)]
    changes = [change for one in shown for change in (one.adds, one.what_if)]
    title = config.title or Names.item(facts.item)
    body = template("item.html").render(
        config=config,
        facts=facts,
        title=title,
        name=Names.item(facts.item),
        outcome=outcome(facts.label),
        said=sentences(facts),
        own=[own[photo] for photo in facts.photos if photo in own],
        small=small,
        absent=NO_PHOTOS if facts.photos and not own and not small else "",
        helps=helps,
        hurts=hurts,
        points=[one for one in facts.concepts if one.kind == "point"],
        reach=max((abs(end) for one in changes for end in (one.low, one.high)), default=1.0) or 1.0,
        called=Names.item,
        today=datetime.now(UTC).isoformat(timespec="minutes"),
    )
    with replacing(config.out) as part:
        part.write_text(page(title, body), encoding="utf-8")
    data = asdict(facts)
    for one, concept in zip(data["concepts"], facts.concepts, strict=True):
        one["below"] = concept.below
    return {"report": str(config.out), "seed": config.seed, "sentences": sentences(facts), **data}


def sentences(facts: ItemFacts) -> list[str]:
    """What there is to know of an item, the first thing first."""
    what = outcome(facts.label)
    if facts.look is None:
        return [
            f"The item has no {facts.looks} that the model could look at, so that nothing in it helps or hurts. Give "
            f"it one: the page then says what it does."
        ]
    column, value = facts.category
    beside = f"those of its category ({column} {value})" if column else "those of all items"
    sure = "" if facts.look.is_clear else " It may be chance."
    said = [
        f"With this {facts.looks} the model predicts {facts.look.times:.2f} times the {what} that it predicts for the "
        f"same item with an average one of the catalogue (95 %: {facts.look.times_low:.2f} to "
        f"{facts.look.times_high:.2f}).{sure}",
        f"Its {facts.looks} adds {facts.look.logit:+.2f} to the score; {beside} add {facts.look_of_category:+.2f} on "
        "average.",
    ]
    named = [one for one in facts.concepts if one.named and abs(one.adds.logit) >= LEAST]
    most = [f"{one.name} ({one.adds.logit:+.2f})" for one in named[:3]]
    if most:
        said.append(f"What counts most: {', '.join(most)}.")
    if facts.what_ifs:
        best = facts.what_ifs[0].concept
        sure = "" if best.what_if.is_clear else ", which may be chance"
        said.append(
            f"What another {facts.looks} could do: one standard deviation {'more' if best.step > 0 else 'less'} of "
            f"{best.name}: ×{best.what_if.times:.2f} {what} (model){sure}."
        )
    if not facts.known:
        said.append("Training has not seen this item: what is said of it rests on its photo and its columns.")
    return said
