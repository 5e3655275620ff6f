"""The models that are served, by name: each with the one before it, and the one that is to follow.

A model is replaced in steps, and at no moment is there none: the new one is loaded beside, scores the requests that
came last, and is compared on them; then requests go to it, all or a share of them, or it only runs beside.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput, CrossMediaError, InvalidRequest
from crossmedia.trainer.answers import Answer
from crossmedia.trainer.serving.requests import Request
from crossmedia.trainer.serving.served import ServedModel
from crossmedia.trainer.serving.tensors import short

log = logging.getLogger(__name__)

RECORDED = 32  # requests that the next model is warmed with, and compared on
ACTIVE, CANARY, SHADOW, PREVIOUS = "active", "canary", "shadow", "previous"


@dataclass(frozen=True)
class Drift:
    """How far apart the scores of two models are on the same candidates.

    Attributes:
        requests, candidates: that both scored.
        mean, most: of the absolute differences.
        mean_before, mean_after: of the scores.
    """

    requests: int = 0
    candidates: int = 0
    mean: float = 0.0
    most: float = 0.0
    mean_before: float = 0.0
    mean_after: float = 0.0

    @property
    def said(self) -> str:
        """A sentence."""
        if not self.requests:
            return "There were no requests yet to compare it on."
        return (
            f"On {self.requests} recorded requests, {self.candidates} candidates: scores differ by {self.mean:.2g} in "
            f"the mean and by {self.most:.2g} at most; their mean was {self.mean_before:.4f} and is "
            f"{self.mean_after:.4f}."
        )

    @classmethod
    def of(cls, pairs: Sequence[tuple[Answer, Answer]]) -> Drift:
        """Of answers to the same requests, of the model before and of the one after."""
        if not pairs:
            return cls()
        before, after = (np.concatenate([pair[n].probabilities[:, 0] for pair in pairs]) for n in (0, 1))
        apart = np.abs(after - before)
        numbers = (apart.mean(), apart.max(), before.mean(), after.mean())
        return cls(len(pairs), len(before), *map(float, numbers))


@dataclass(frozen=True)
class Held:
    """What is held under a name.

    Attributes:
        active: answers.
        beside: answers a share of the requests, or runs beside; None: there is none.
        share: of the requests, from 0 to 1; 0: it runs beside, and its scores go nowhere.
        previous: answered before; None: there was none.
        drift: of the model that was loaded last.
    """

    active: ServedModel
    beside: ServedModel | None = None
    share: float = 0.0
    previous: ServedModel | None = None
    drift: Drift = field(default_factory=Drift)

    def models(self) -> Iterator[tuple[ServedModel, str]]:
        """Each with its role."""
        yield self.active, ACTIVE
        if self.beside is not None:
            yield self.beside, CANARY if self.share else SHADOW
        if self.previous is not None:
            yield self.previous, PREVIOUS


class Models:
    """Models by name.

    Args:
        models: that are served.
        load: reads a model from a path, with the digest of native code that is trusted beside the server's own.
        forget: called with each version that is no longer held.

    Raises:
        BadInput: two have one name.

    Attributes:
        forget: as given.
        turn: given seconds, waits that long at most for the right to compute; what is done for nobody takes its turn
            among requests.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        load: Callable[[Path, str], ServedModel] | None = None,
        forget: Callable[[ServedModel], None] = lambda model: None,
    ):
        self._held = {model.name: Held(model) for model in models}
        if len(self._held) < len(models):
            names = [model.name for model in models]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"Two models are called {twice!r}, by which requests name them. Rename one of the files.")
        self._load, self.forget = load, forget
        self.turn: Callable[[float], AbstractContextManager[object]] = nullcontext
        self._recorded: dict[str, deque[Request]] = {name: deque(maxlen=RECORDED) for name in self._held}
        self._switching = threading.Lock()
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadowing = threading.Semaphore(2)  # more are not worth the memory: the load is shown by a part of it

    @property
    def names(self) -> list[str]:
        """By which requests name them."""
        return [*self._held]

    def held(self, name: str) -> Held:
        """What is held under a name."""
        return self._held[name]

    def versions(self, name: str) -> list[str]:
        """Versions that a model can be asked for."""
        return [model.version for model, _ in self._held[name].models()]

    def chosen(self, name: str, version: str) -> ServedModel:
        """The model that answers a request.

        Raises:
            InvalidRequest: that version is not held.
        """
        held = self._held[name]
        if version:
            for model, _ in held.models():
                if model.version == version:
                    return model
            raise InvalidRequest(
                f"The model {name} is not held in version {short(version)}. Held: {', '.join(self.versions(name))}."
            )
        if held.beside is not None and held.share and random.random() < held.share:
            return held.beside
        return held.active

    def roles(self) -> Iterator[tuple[ServedModel, str]]:
        """Every model that is held, and what for."""
        for held in self._held.values():
            yield from held.models()

    def seen(self, model: ServedModel, request: Request, answer: Answer) -> None:
        """Note an answer: it is recorded, and a model that runs beside scores the same request, if it has the time."""
        self._recorded[model.name].append(request)
        held = self._held[model.name]
        if held.beside is None or held.share or not self._shadowing.acquire(blocking=False):
            return
        self._beside.submit(self._score_beside, held.beside, request, answer)

    def _score_beside(self, model: ServedModel, request: Request, answer: Answer) -> None:
        try:
            with self.turn(TURN_S):
                found = model.answer(replace(request, reasons=0))
            model.apart.observe(np.abs(found.probabilities[:, 0] - answer.probabilities[:, 0]))
        except Exception:  # nobody waits for it, and nobody's answer depends on it
            model.apart.failed += 1
            log.exception("the model %s %s, which runs beside, failed", model.name, model.version)
        finally:
            self._shadowing.release()

    def switch(self, name: str, path: Path | None = None, share: float | None = None, trust_native: str = "") -> Held:
        """Load a model, and have it answer; the one before is kept.

        Args:
            name: under which it is served.
            path: of the new one; None: what lies now where the active one was read from.
            share: of the requests that it answers from now on, from 0 (it runs beside) to 1; None: all.
            trust_native: digest of a file that may hold native code.

        Returns:
            what is held then, with the drift between both.

        Raises:
            BadInput: it cannot be served in the place of the other; nothing has changed then.
        """
        if self._load is None:
            raise BadInput("This server loads no other models.")
        with self._switching:
            before = self._held[name]
            new = replace(self._load(path or before.active.path, trust_native), name=name)
            new.share_vectors(before.active)
            if known := next((role for model, role in before.models() if model.version == new.version), None):
                self._close(new)
                if known != ACTIVE and share is None:
                    return self._promoted(before, known)
                if known == PREVIOUS and before.previous is not None:
                    return self._beside_again(before, before.previous, share or 0.0)
                raise BadInput(f"The model {name} is held in version {new.version} already: it is the {known} one.")
            try:
                drift = self._warmed(before.active, new)
            except CrossMediaError:
                self._close(new)
                raise
            if share is None:
                now = Held(new, None, 0.0, before.active, drift)
            else:
                now = replace(before, beside=new, share=share, drift=drift)
            self._put(now, before)
            log.info("switched %s to %s of %s. %s", name, new.version, new.path, drift.said)
            return now

    def rolled_back(self, name: str) -> Held:
        """Have the model before answer again; one that runs beside, or answers a share, is given up.

        Raises:
            BadInput: there is none.
        """
        with self._switching:
            before = self._held[name]
            if before.beside is not None:
                now = replace(before, beside=None, share=0.0, drift=Drift())
            elif before.previous is not None:
                now = Held(before.previous, None, 0.0, before.active)
            else:
                raise BadInput(f"There is no model before {name} {before.active.version}: it was the first.")
            self._put(now, before)
            log.info("rolled %s back to %s", name, now.active.version)
            return now

    def _promoted(self, before: Held, role: str) -> Held:
        """Have a model that is held answer all requests."""
        model = next(model for model, found in before.models() if found == role)
        now = Held(model, None, 0.0, before.active, before.drift)
        self._put(now, before)
        log.info("switched %s to %s, which was held as %s", model.name, model.version, role)
        return now

    def _beside_again(self, before: Held, model: ServedModel, share: float) -> Held:
        """Have the model that answered before answer a share of the requests, or run beside."""
        drift = self._warmed(before.active, model)
        now = replace(before, beside=model, share=share, previous=None, drift=drift)
        self._put(now, before)
        log.info("%s %s, which answered before, is beside again. %s", model.name, model.version, drift.said)
        return now

    def _put(self, now: Held, before: Held) -> None:
        self._held[now.active.name] = now
        kept = [model for model, _ in now.models()]
        for model, _ in before.models():
            if model not in kept:
                self.forget(model)
                threading.Timer(CLOSE_AFTER_S, self._close, [model]).start()  # requests may still be scored by it

    def _warmed(self, old: ServedModel, new: ServedModel) -> Drift:
        """Have a new model score what was asked last, and compare.

        Raises:
            BadInput: it cannot answer what the old one can, or its scores are no numbers.
        """
        if new.labels != old.labels:
            raise BadInput(
                f"The model {new.path} predicts {', '.join(new.labels)}; the one that is served predicts "
                f"{', '.join(old.labels)}. Serve it under a name of its own."
            )
        new.check_vectors()
        pairs = []
        for request in list(self._recorded[old.name]) or [new.probe()]:
            asked = replace(request, reasons=0)
            try:
                pairs.append((self._aside(old, asked), self._aside(new, asked)))
            except BadInput as error:
                raise BadInput(f"The model {new.path} cannot answer what is asked of {old.name}: {error}") from error
            if not np.isfinite(pairs[-1][1].probabilities).all():
                raise BadInput(f"The model {new.path} gives scores that are no numbers. Train it anew.")
        return Drift.of(pairs) if self._recorded[old.name] else Drift()

    def _aside(self, model: ServedModel, request: Request) -> Answer:
        """An answer for nobody: in its turn, and with a rest behind it, so that requests hardly notice."""
        with self.turn(TURN_S):
            started = time.perf_counter()
            found = model.answer(request)
            took = time.perf_counter() - started
        time.sleep(min(MOST_REST_S, REST * took))
        return found

    def _close(self, model: ServedModel) -> None:
        """Give up a model's connections, but those that another one uses."""
        model.close([source.source for other, _ in self.roles() for source in other.sources().values()])

    def close(self) -> None:
        """Give up all connections."""
        self._beside.shutdown(wait=False, cancel_futures=True)
        for model, _ in self.roles():
            model.close()


CLOSE_AFTER_S = 70.0  # longer than any call
TURN_S = 10.0  # that work for nobody waits for its turn
REST, MOST_REST_S = 3.0, 0.2  # times what it took
