"""Reasons: their names, the sentence for a shopper, what is never said, and what would have to be undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from concept_cards import card_of
from model_batches import EVERYTHING, SPEC, make_batch
from test_concept_model import made

from crossmedia.concepts import Concept, ConceptCard, Token
from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.photometry import ANCHORS as PHOTOMETRY
from crossmedia.trainer.layers.additive import BIAS, ID, MATCH, POPULARITY, PREFERENCE, SELLS, TASTE, Term
from crossmedia.trainer.models import make
from crossmedia.trainer.reasons.contributions import Contributions, contributions, with_preferences
from crossmedia.trainer.reasons.counterfactual import fewest_removed
from crossmedia.trainer.reasons.explained import Reason, reasons_of
from crossmedia.trainer.reasons.never_said import NEVER_SAID, is_sayable
from crossmedia.trainer.reasons.preferences import amount, as_columns, check_preferences, shifted
from crossmedia.trainer.reasons.sentences import Done, sentence
from crossmedia.trainer.reasons.wording import in_words

DAY = 86_400
TUESDAY = 1_764_028_800  # 2025-11-25
WARM = Concept("warm colours", "anchor")


def of_one_row(
    *parts: tuple[Term, Concept | None, float, float], seen: Sequence[tuple[float, float]] = ()
) -> Contributions:
    """A row of given terms: term, concept, contribution, how much of it; behaviours add to the last, how much each."""
    terms, concepts, values, amounts = zip(*parts, strict=True)
    n = len(seen)
    return Contributions(
        tuple(str(number) for number in range(len(parts))),
        terms,
        concepts,
        np.array([values], dtype=np.float32),
        np.array([amounts], dtype=np.float32),
        np.array([[value] for value, _ in seen], dtype=np.float32).reshape(n, 1),
        np.array([[much] for _, much in seen], dtype=np.float32).reshape(n, 1),
        np.array([len(parts) - 1]),
        np.zeros(n, dtype=np.int64),
        0.0,
    )


def test_names_are_unique_and_say_concept_column_and_behaviours() -> None:
    model = made(EVERYTHING)
    batch, vectors = make_batch([3, 0, 2, 7], spec=EVERYTHING)
    found = contributions(model, batch, vectors, {"image": card_of(8), "title": card_of(6)})
    assert len(set(found.names)) == len(found.names)
    assert {"image: quality 1", "title: quality 1 x user_id", "image: quality 2 x behaviours"} <= {*found.names}
    assert {"popularity", "shop_id x behaviours", "no vector of image", "price", "image: rest 1"} <= {
        name.removeprefix("image: ") if name == "image: no vector of image" else name for name in found.names
    }
    assert found.logits == pytest.approx(model(batch, vectors)[:, 0].detach().numpy(), abs=1e-5)


def test_the_correction_for_sampled_negatives_is_part_of_the_bias() -> None:
    model = made(SPEC)
    batch, vectors = make_batch()
    before = contributions(model, batch, vectors, {"image": card_of(8)})
    model.sampled(0.1)
    after = contributions(model, batch, vectors, {"image": card_of(8)})
    assert after.values[:, 0] - before.values[:, 0] == pytest.approx(np.log(0.1))
    assert after.logits == pytest.approx(model(batch, vectors)[:, 0].detach().numpy(), abs=1e-5)


def test_a_net_has_no_exact_reasons_and_a_space_without_names_none() -> None:
    batch, vectors = make_batch()
    with pytest.raises(BadInput, match="no sum of terms"):
        contributions(make("din", SPEC, 4, {}), batch, vectors, {})
    with pytest.raises(BadInput, match=r"the space 'image' mean is not known"):
        contributions(made(SPEC), batch, vectors, {})


@pytest.mark.parametrize("length_power", [0.0, 0.5, 1.0])
def test_the_fewest_behaviours_are_the_fewest_and_scoring_without_them_agrees(length_power: float) -> None:
    """Against every set of behaviours, each scored anew by the model itself."""
    model = made(SPEC)
    assert model.weights is not None
    model.weights.power = length_power
    batch, vectors = make_batch([6], seed=4)
    found = contributions(model, batch, vectors, {"image": card_of(8)})

    def logit(removed: tuple[int, ...]) -> float:
        kept = torch.tensor([n for n in range(6) if n not in removed], dtype=torch.int64)
        less = replace(
            batch,
            history=batch.history[kept],
            action=batch.action[kept],
            history_age=batch.history_age[kept],
            segments=batch.segments[kept],
            lengths=torch.tensor([len(kept)]),
        )
        return float(model(less, vectors).item())

    every = [removed for size in range(7) for removed in combinations(range(6), size)]
    logits = {removed: logit(removed) for removed in every}
    for below in np.linspace(min(logits.values()) - 0.1, logits[()] + 0.1, 12):
        least = min((len(removed) for removed in every if logits[removed] < below), default=None)
        answer = fewest_removed(found, 0, below)
        assert (None if answer is None else len(answer)) == least
        assert answer is None or logits[tuple(answer)] < below + 1e-5


def test_a_term_comes_most_from_the_behaviour_that_adds_most_in_its_direction() -> None:
    """As a loop over rows, terms and behaviours finds it."""
    model = made(EVERYTHING)
    batch, vectors = make_batch([3, 0, 2, 7, 0], spec=EVERYTHING)
    found = contributions(model, batch, vectors, {"image": card_of(8), "title": card_of(6)})
    for row in range(5):
        own = found.behaviours(row)
        for place in range(len(found.terms)):
            expected = -1
            if place in found.of_behaviours and len(own):
                added = own[:, found.of_behaviours.tolist().index(place)] * np.sign(found.values[row, place])
                expected = int(added.argmax()) if added.max() > 0 else -1
            assert found.behaviour[row, place] == expected


def test_a_sentence_names_the_behaviours_that_have_it_too() -> None:
    match = (Term(MATCH, space="image", place=0), WARM, 2.0, 1.5)
    two = of_one_row((Term(BIAS), None, 9.0, np.nan), match, seen=[(0.9, 1.0), (0.1, 0.5), (1.0, 2.0)])
    done = [Done("buy", TUESDAY), Done("click", TUESDAY), Done("buy", TUESDAY + 3600)]
    assert sentence(two, 0, done, TUESDAY + 3 * DAY) == "Warm colours, like the two you bought on Tuesday."
    assert sentence(two, 0, done, TUESDAY + 9000) == "Warm colours, like the two you bought today."
    assert sentence(two, 0, done, TUESDAY + 9 * DAY) == "Warm colours, like the two you bought."
    other = [replace(done[0], action="cart"), *done[1:]]
    assert sentence(two, 0, other, TUESDAY + DAY) == "Warm colours, like the two you chose yesterday."
    assert sentence(two, 0) == "Warm colours, like the two you chose."
    for many, number in ((6, "six"), (12, "twelve"), (13, "13")):
        assert sentence(of_one_row(match, seen=[(1.0, 1.0)] * many), 0) == f"Warm colours, like the {number} you chose."
    lacking = of_one_row(match, seen=[(2.0, -1.0)])  # what they have in common is that neither has it
    assert sentence(lacking, 0) == ""


@pytest.mark.parametrize(
    ("concept", "much", "share", "said"),
    [
        (WARM, 1.0, 0.5, "Popular here: warm colours."),
        (WARM, -1.0, 0.5, ""),  # it speaks for the item that it has little
        (WARM, 1.0, 0.09, ""),
        (Concept("rest 1", "rest"), 1.0, 0.5, ""),
        (Concept("unnamed 3", "free", stability=0.9), 1.0, 0.5, ""),
        (Concept("stripes", "free", stability=0.69), 1.0, 0.5, ""),
        (Concept("stripes", "free", stability=0.9, clear=0.8), 1.0, 0.5, "Popular here: stripes."),
        (Concept("Maternity", "probe", "type", "Maternity"), 1.0, 0.5, ""),
        (Concept("soft", "probe", "body_shape", "soft"), 1.0, 0.5, ""),
    ],
)
def test_what_may_be_said(concept: Concept, much: float, share: float, said: str) -> None:
    others = (Term(POPULARITY), None, 1 - share, np.nan), (Term(ID, "shop_id"), None, -5.0, np.nan)
    found = of_one_row((Term(SELLS, space="image", place=0), concept, share, much), *others)
    assert sentence(found, 0) == said
    assert not said or sentence(found, 0, never=[concept.name.split()[0].upper()]) == ""


WHITE = Concept("white background", "anchor", value="white background", mean=0.002, deviation=0.01)
BLACK = Concept("colour=black", "probe", "colour", "black", mean=-3.0, deviation=1.5)


@pytest.mark.parametrize(
    ("concept", "much", "said"),
    [
        (WHITE, 3.0, ""),  # more than nearly all photos of the shop have: 3 of 100 pixels
        (WHITE, 39.0, ""),
        (WHITE, 40.0, "Popular here: a white background."),
        (replace(WHITE, name="clean backdrop"), 3.0, ""),  # another name makes no photo white
        (replace(WHITE, mean=0.41, deviation=0.2), 0.1, "Popular here: a white background."),
        (replace(WHITE, mean=0.9, deviation=0.05), -1.0, ""),  # it has less than most
        (BLACK, 1.9, ""),  # likelier not black
        (BLACK, 2.1, "Popular here: black."),
        (Concept("stripes", "free", stability=0.9, clear=2.0), 1.9, ""),
        (Concept("stripes", "free", stability=0.9, clear=2.0), 2.0, "Popular here: stripes."),
        (Concept("stripes", "free", stability=0.9), 9.0, ""),  # nobody knows how much is much
    ],
)
def test_a_sentence_is_said_of_photos_that_show_it(concept: Concept, much: float, said: str) -> None:
    found = of_one_row((Term(SELLS, space="image", place=0), concept, 1.0, much))
    assert sentence(found, 0) == said
    match = of_one_row((Term(MATCH, space="image", place=0), concept, 1.0, 50.0), seen=[(1.0, much)])
    assert bool(sentence(match, 0)) == bool(said)  # and so must the photos of behaviours


def test_every_number_of_the_pixels_has_words_for_much_and_for_little() -> None:
    for name in PHOTOMETRY:
        concept = Concept(name, "anchor", value=name)
        words = {in_words(concept, much) for much in (True, False)}
        assert len(words) == 2
        assert not any(word.endswith(name) and word.startswith("little") for word in words)
    renamed = Concept("busy", "anchor", value="edge density")
    assert [in_words(renamed, much) for much in (True, False)] == ["busy", "little of busy"]


def test_of_what_users_are_only_the_user_is_spoken_of() -> None:
    for column, said in (("user_id", "Warm colours, which you like."), ("gender", ""), ("city", "")):
        found = of_one_row((Term(TASTE, column, "image", 0), WARM, 1.0, 1.0))
        assert sentence(found, 0) == said


def test_the_list_is_of_words_and_not_of_parts_of_words() -> None:
    assert {"size", "ethnicity", "body", "religion", "pregnant"} <= NEVER_SAID
    for word in NEVER_SAID:
        assert not is_sayable(Concept(f"some {word.title()} thing", "probe"))
    assert is_sayable(Concept("embodied agendas in manganese", "probe"))


@pytest.mark.parametrize(
    ("name", "sayable"),
    [
        *(
            (name, False)
            for name in ("PLUS SIZE", "PlusSize dresses", "plus_size", "Plus-Size", "plussize", "oversized")
        ),
        *(
            (name, False)
            for name in ("womenswear", "Ladies H&M Sport", "Womens Tailoring", "Women\u2019s tops", "BodyFit")
        ),
        *((name, False) for name in ("\uff22\uff2f\uff24\uff39", "black-owned", "Kids' shoes", "menswear", "fat-free")),
        *((name, True) for name in ("shorts", "swimwear", "sportswear", "metallic", "seamless", "knitwear", "tops")),
    ],
)
def test_what_is_never_said_is_not_said_in_capitals_or_in_a_compound_either(name: str, sayable: bool) -> None:
    assert is_sayable(Concept(name, "probe")) == sayable
    assert is_sayable(Concept("soft", "probe", "cut", name)) == sayable  # a new name does not hide what it is


def test_several_words_in_a_row_may_be_forbidden() -> None:
    fur = Concept("Faux-Fur coat", "probe")
    assert not is_sayable(fur, ["faux fur"])
    assert not is_sayable(fur, ["FUR"])
    assert is_sayable(fur, ["fur coats", ""])


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        (Concept("colour=black", "probe", "colour", "black"), "Popular here: black."),
        (Concept("colour=LIGHT_BLUE", "probe", "colour", "LIGHT_BLUE"), "Popular here: light blue."),
        (Concept("title: lace", "probe", "title", "lace"), "Popular here: lace."),
        (Concept("title: lace (2)", "probe", "title", "lace"), "Popular here: lace."),
        (Concept("kind=a=b: c", "probe", "kind", "a=b: c"), "Popular here: a=b: c."),
        (Concept("spitzenrand", "probe", "title", "lace"), "Popular here: spitzenrand."),  # somebody's name
        (
            Concept("t: legs", "free", stability=0.9, clear=0.5, tokens=(Token("t: legs", 9, 4.0, 0.001),)),
            "Popular here: legs.",
        ),
        (Concept("warmth", "anchor", value="warmth"), "Popular here: warm colours."),
        (Concept("entropy", "anchor", value="entropy"), ""),
        (Concept("department=1676", "probe", "department", "1676"), ""),
        (Concept("type=Unknown", "probe", "type", "Unknown"), ""),
        (Concept("text: with", "probe", "text", "with"), ""),
        (Concept("text: " + "long " * 12, "probe", "text", "long " * 12), ""),
        (Concept("hand-made look", "point", "", "hand-made look"), "Popular here: hand-made look."),
    ],
)
def test_a_sentence_speaks_of_values_as_people_do(concept: Concept, said: str) -> None:
    found = of_one_row((Term(SELLS, space="image", place=0), concept, 1.0, 1.0))
    assert sentence(found, 0) == said


def test_preferences_change_logits_by_what_they_say() -> None:
    probabilities = np.array([[0.2, 0.9], [0.5, 1e-4]], dtype=np.float32)
    moved = shifted(probabilities, amount(-0.5, np.array([1.2, 7.0])))
    before, after = (np.log(p.astype(np.float64) / (1 - p)) for p in (probabilities, moved))
    assert after - before == pytest.approx(np.array([[-0.6] * 2, [-1.5] * 2]), abs=1e-4)
    assert as_columns({"warm": 1, "green": -0.1, "none": 0}) == {"wanted": ["warm"], "unwanted": ["green"]}


def test_preferences_that_are_none_are_refused() -> None:
    cards = {"photo": card_of(3), "title": ConceptCard("concepts@0123456789ab", "x@0", 1, 1, (WARM,))}
    assert check_preferences({"warm colours": -1, "quality 1": 0.5}, cards) == [("title", 0), ("photo", 1)]
    for wrong, words in (
        ({"warm colours": -1.5}, "from -1, less of it, to 1"),
        ({"warm colours": float("nan")}, "from -1"),
        ({"warm colour": 1}, "Did you mean 'warm colours'"),
    ):
        with pytest.raises(BadInput, match=words):
            check_preferences(wrong, cards)
    with pytest.raises(BadInput, match="both have a concept 'quality 1'"):
        check_preferences({"quality 1": 1}, {"a": card_of(3), "b": card_of(3)})
    with pytest.raises(BadInput, match="no concepts"):
        check_preferences({"warm": 1}, {})


def test_a_preference_is_a_reason() -> None:
    found = of_one_row((Term(BIAS), None, 0.4, np.nan), (Term(SELLS, space="image", place=0), WARM, 0.0, 1.5))
    asked = with_preferences(found, {"warm colours": np.array([1.5], dtype=np.float32)}, [WARM])
    assert asked.logits == pytest.approx([1.9])
    assert asked.terms[-1].kind == PREFERENCE
    assert reasons_of(asked, 0, 3) == (Reason("warm colours as you asked", 1.5),)
    assert sentence(asked, 0) == "Warm colours, as you asked."
