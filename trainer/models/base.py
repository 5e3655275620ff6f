"""What every model is: one signature, its loss, its optimizers.

Legend: B rows, N history entries of the batch, E numbers an item, O numbers beside items, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from crossmedia.concepts import ConceptCard
from crossmedia.features.columns import ACTION
from crossmedia.trainer.layers.factors import Factors
from crossmedia.trainer.layers.inputs import Inputs, InputSpec, ModelInputs
from crossmedia.trainer.layers.sharded import is_spread
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch


class Model(nn.Module):
    """``forward(batch, vectors) -> logits``; a subclass says how in ``score``.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
    """

    paper: ClassVar[str] = ""  # what 'trainer models' shows beside the first line of the docstring
    ids_are_rows: ClassVar[bool] = True  # whether ids are looked up in ``id_rows`` alone
    teaches_head: ClassVar[bool] = True  # whether its loss has a gradient with respect to the vectors
    averages: ClassVar[bool] = True  # whether its weights may be averaged over steps
    sampling_log_odds: Tensor

    def __init__(self, spec: InputSpec):
        super().__init__()
        self.spec = spec
        self.register_buffer("sampling_log_odds", torch.zeros(()))

    def sampled(self, rate: float) -> None:
        """Say that only this share of the negatives will be trained on.

        In evaluation a prediction p is then re-calibrated to q = p / (p + (1 - p) / rate) (He et al. 2014, section
        6.3), which is to add log(rate) to its logit.
        """
        self.sampling_log_odds.fill_(math.log(rate))

    def acquaint(self, counts: Tensor, cards: Mapping[str, ConceptCard]) -> None:
        """Be told, before training, what batches do not say; nothing, for most.

        Args:
            counts: shape (items + 1,), how often each item is the target of a training row, by its place.
            cards: what the numbers of vectors mean, of the spaces whose numbers are concepts.
        """

    def prepare(self, rows: Iterable[tuple[TensorBatch, SpaceVectors]], seed: int) -> None:
        """Whatever is fitted before the first step; nothing, for most.

        Args:
            rows: batches of training rows, shuffled, with their vectors; read only as far as they are
                taken.
            seed: of what is drawn.
        """

    def forward(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits, shape (B, L); re-calibrated in evaluation when negatives were sampled."""
        logits = self.score(batch, vectors)
        return logits if self.training else logits + self.sampling_log_odds

    def probabilities(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Of each label being 1, shape (B, L)."""
        return torch.sigmoid(self(batch, vectors))

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits as the model learns them, shape (B, L)."""
        raise NotImplementedError

    def loss(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """What a step lowers: the mean cross entropy over rows and labels, and what a model adds to it."""
        return self.cross_entropy(self(batch, vectors), batch) + self.penalty(batch)

    def penalty(self, batch: TensorBatch) -> Tensor:
        """What a step lowers beside the loss of its rows, such as the size of weights; 0 for most, and without rows."""
        return self.sampling_log_odds.new_zeros(())

    def cross_entropy(self, logits: Tensor, batch: TensorBatch) -> Tensor:
        """Mean over rows and labels, in nats."""
        labels = torch.stack([batch.labels[name] for name in self.spec.labels], dim=1)
        return binary_cross_entropy_with_logits(logits, labels)

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """What steps the parameters: Adam over all of them."""
        # Tables whose rows are spread over processes are stepped apart, for one call takes tensors of one kind.
        apart = [parameter for parameter in self.parameters() if is_spread(parameter)]
        others = [parameter for parameter in self.parameters() if not is_spread(parameter)]
        groups = [{"params": found} for found in (others, apart) if found]
        return [torch.optim.Adam(groups, lr=learning_rate, fused=True)]

    def served(self) -> Model:
        """The part that answers requests: the whole, unless something was there for training only."""
        return self

    def id_rows(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Parameters whose rows are places of vocabularies: name -> column -> first row and number of rows."""
        raise NotImplementedError

    def notes(self) -> dict[str, float]:
        """What the trained weights say of themselves, for the run's metrics."""
        return {}


class EmbeddingModel(Model):
    """A model that starts from embeddings; a subclass turns them into logits in ``top``.

    Args:
        spec: columns and sizes.
        width: numbers in an embedding.
        inputs: embeddings that are shared with another model; None makes new ones.
        factors: of ``Factors``, for models that offer them; 0: there are none.
        pooling: of several vectors of an item: ``mean``, ``max``, or ``attention`` by the target; see ``SpaceInput``.
            ``make`` gives it, and the next, to every model that starts from embeddings.
        embedding_std: spread of the embeddings that training begins with. A larger one lets a net see sooner what only
            the match of user and item tells.
    """

    def __init__(
        self,
        spec: InputSpec,
        width: int,
        inputs: ModelInputs | None = None,
        factors: int = 0,
        *,
        pooling: str = "mean",
        embedding_std: float = 0.02,  # a literal, which lists of options read without running this file
    ):
        super().__init__(spec)
        self.inputs = inputs or ModelInputs(self.embedded(spec), width, pooling, embedding_std)
        self.factors = Factors(spec, factors) if factors else None

    @staticmethod
    def embedded(spec: InputSpec) -> InputSpec:
        """What of the samples the model embeds: all of it, for most."""
        return spec

    def id_rows(self) -> dict[str, dict[str, tuple[int, int]]]:
        """As ``Model.id_rows``: the tables of ids, lists, words and kinds of behaviours."""
        sizes = {f"inputs.tables.{name}.weight": {name: (0, size)} for name, size in self.spec.vocabularies.items()}
        sizes |= {"inputs.action.weight": {ACTION: (0, max(self.spec.actions, 1))}}
        return sizes | (self.factors.id_rows("factors") if self.factors is not None else {})

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits as the model learns them, shape (B, L)."""
        return self.top(self.inputs(batch, vectors), batch)

    def top(self, x: Inputs, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L), of embedded inputs; ``with_factors``, of a model that offers them."""
        raise NotImplementedError

    def with_factors(self, logits: Tensor, batch: TensorBatch) -> Tensor:
        """The logits of a net, shape (B, L), and those of the factors on top."""
        return logits if self.factors is None else logits + self.factors(batch)

    def acquaint(self, counts: Tensor, cards: Mapping[str, ConceptCard]) -> None:
        """As ``Model.acquaint``: of how many rows the factors are."""
        if self.factors is not None:
            self.factors.acquaint(counts)

    def penalty(self, batch: TensorBatch) -> Tensor:
        """As ``Model.penalty``: the size of the factors."""
        return super().penalty(batch) if self.factors is None else self.factors.penalty(batch)
