"""From ids, lists, numbers, text and vectors to the numbers that models with embeddings start from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crossmedia.arguments import once
from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.columns import IMAGE
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.layers.jagged import segment_mean
from crossmedia.trainer.layers.numbers import EMBEDDING_STD, NumberEmbedding
from crossmedia.trainer.layers.spaces import MEAN, SpaceInput
from crossmedia.trainer.tensors import AGE_BUCKETS, Bag, SpaceVectors, TensorBatch


@dataclass(frozen=True)
class InputSpec:
    """Which columns there are, with the size of each vocabulary.

    Attributes:
        item_columns: ids that an item has, as target and in the history.
        user_columns: ids of the user and of the impression.
        text_columns: token columns of the target.
        image_vocabulary_size: of ``image_id`` as a sparse feature; 0 when the samples have no images.
        actions: kinds of behaviours, 0 when there is no history.
        spaces: D of the vectors of each space, by its name; empty: images are off.
        item_lists: lists that an item has, such as tags, as target and in the history.
        user_lists: lists of the user and of the impression.
        item_numbers: numbers that an item has, as target and in the history.
        user_numbers: numbers of the user and of the impression.
        labels: L labels that are trained, in order.
        max_history: behaviours that a history holds at most.
        of_log: which columns are the impression's, and not the user's.
        space_keys: what the vectors of each space are keyed by, ``image`` or ``item``, of those that are off as well.
    """

    item_columns: dict[str, int]
    user_columns: dict[str, int]
    text_columns: dict[str, int]
    image_vocabulary_size: int
    actions: int
    spaces: dict[str, int] = field(default_factory=dict)
    item_lists: dict[str, int] = field(default_factory=dict)
    user_lists: dict[str, int] = field(default_factory=dict)
    item_numbers: tuple[str, ...] = ()
    user_numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ("label",)
    max_history: int = 50
    of_log: tuple[str, ...] = ()
    space_keys: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Samples, spaces: Mapping[str, int], labels: tuple[str, ...] = ()) -> InputSpec:
        """What a folder of samples has.

        Args:
            samples: the folder.
            spaces: D of the vectors of each space that is on; without any, images are off.
            labels: those to train; empty takes the first.

        Raises:
            BadInput: the samples have no such label, or one is named twice.
        """
        if unknown := [name for name in labels if name not in samples.labels]:
            raise BadInput(
                f"The samples in {samples.folder} have no label {unknown[0]!r}; there are: "
                f"{', '.join(samples.labels)}.{did_you_mean(unknown[0], samples.labels)}"
            )
        once("labels", labels)
        return cls(
            samples.item_ids,
            samples.row_ids,
            samples.text_columns,
            samples.image_vocabulary_size,
            samples.actions,
            dict(spaces),
            samples.item_lists,
            samples.row_lists,
            samples.item_numbers,
            samples.row_numbers,
            labels or samples.labels[:1],
            samples.max_history,
            samples.of_log,
            {name: space.key for name, space in samples.spaces.items()},
        )

    @property
    def vocabularies(self) -> dict[str, int]:
        """Size of each vocabulary of ids, tokens and lists, by name, ``image_id`` included."""
        sizes = {**self.item_columns, **self.user_columns, **self.text_columns, **self.item_lists, **self.user_lists}
        return sizes | ({IMAGE: self.image_vocabulary_size} if self.image_vocabulary_size else {})

    @property
    def item_bags(self) -> dict[str, int]:
        """Vocabularies of what an item has several of: the ids of its images first, then its lists."""
        images = {IMAGE: self.image_vocabulary_size} if self.image_vocabulary_size else {}
        return images | self.item_lists


@dataclass(frozen=True)
class Inputs:
    """What ``ModelInputs`` makes. What an item shows in each space, W numbers each, is the end of its numbers.

    Attributes:
        target: shape (B, E), the impression's item.
        history: shape (N, E), the behaviours, in the same space as the target.
        other: shape (B, O), user, impression and text.
        vectors: of each space as they came, for models that compare them; empty when images are off.
    """

    target: Tensor
    history: Tensor
    other: Tensor
    vectors: SpaceVectors = field(default_factory=dict)


class ModelInputs(nn.Module):
    """Embeds every column, each item of a batch once, whether it is shown or in a history.

    Without vectors a model still gets ``image_id`` as a sparse id, so that what vectors add is the picture's and not
    the id's. An item is the concatenation of its ids, the means of its lists (its image ids are the first of these),
    its numbers, of a context (for a behaviour its kind and age, for the target place 0 of both), and of what it shows
    in each space that is on.

    Args:
        spec: columns and sizes.
        width: W, numbers in an embedding.
        pooling: of several vectors of an item, see ``SpaceInput``.
        embedding_std: of what training begins with.

    Raises:
        BadInput: a column or a space has the name of an attribute of modules, such as ``type``, or a dot in its name;
            there is no such pooling; or the spread is not above 0.
    """

    def __init__(self, spec: InputSpec, width: int, pooling: str = MEAN, embedding_std: float = EMBEDDING_STD):
        super().__init__()
        if not 0 < embedding_std < math.inf:
            raise BadInput(f"embedding_std is {embedding_std}: embeddings begin with a spread above 0, such as 0.1.")
        self.spec, self.width, self.pooling = spec, width, pooling
        self.tables = named_modules(
            {name: nn.Embedding(size, width) for name, size in spec.vocabularies.items()}, "column"
        )
        self.action = nn.Embedding(max(spec.actions, 1), width)
        self.age = nn.Embedding(AGE_BUCKETS, width)
        for table in (*self.tables.values(), self.action, self.age):
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        known = (len(spec.item_columns) + len(spec.item_bags) + len(spec.item_numbers)) * width
        spaces = {name: SpaceInput(dim, width, pooling, known) for name, dim in spec.spaces.items()}
        self.spaces = named_modules(spaces, "space")
        self.item_numbers = NumberEmbedding(spec.item_numbers, width) if spec.item_numbers else None
        self.user_numbers = NumberEmbedding(spec.user_numbers, width) if spec.user_numbers else None
        self.item_width, self.shown_width = known + (1 + len(spaces)) * width, len(spaces) * width
        columns = (spec.user_columns, spec.text_columns, spec.user_lists, spec.user_numbers)
        self.other_width = sum(map(len, columns)) * width
        if embedding_std != EMBEDDING_STD:
            with torch.no_grad():
                for parameter in self.parameters():  # what is drawn stays the same draw
                    parameter.mul_(embedding_std / EMBEDDING_STD)

    def forward(self, batch: TensorBatch, vectors: SpaceVectors) -> Inputs:
        """Embed a batch.

        Raises:
            ValueError: the model was made for other spaces than those of the vectors.
        """
        check_spaces(self.spec, vectors)
        known = self._items(batch)
        targets, behaviours = known.index_select(0, batch.target), known.index_select(0, batch.history)
        zero = batch.lengths.new_zeros(batch.rows)
        target = [targets, self.action(zero) + self.age(zero)]
        history = [behaviours, self.action(batch.action) + self.age(batch.history_age)]
        for name, space in self.spaces.items():
            of_target, of_history = space(vectors[name], batch, name, targets)
            target.append(of_target)
            history.append(of_history)
        return Inputs(torch.cat(target, dim=1), torch.cat(history, dim=1), self._other(batch), vectors)

    def _items(self, batch: TensorBatch) -> Tensor:
        """Ids, lists and numbers of the batch's items, shape (U, ids)."""
        items = batch.items
        found = [self.tables[name](items.ids[name]) for name in self.spec.item_columns]
        found += [self._mean(name, items.lists[name], items.count) for name in self.spec.item_bags]
        if self.item_numbers is not None:
            found.append(self.item_numbers(items.numbers))
        return torch.cat(found, dim=1)

    def _other(self, batch: TensorBatch) -> Tensor:
        """User, impression and the target's text, shape (B, O)."""
        found = [self.tables[name](batch.ids[name]) for name in self.spec.user_columns]
        found += [self._mean(name, batch.text[name], batch.rows) for name in self.spec.text_columns]
        found += [self._mean(name, batch.lists[name], batch.rows) for name in self.spec.user_lists]
        if self.user_numbers is not None:
            found.append(self.user_numbers(batch.numbers))
        return torch.cat(found, dim=1)

    def _mean(self, name: str, lists: Bag, count: int) -> Tensor:
        return segment_mean(self.tables[name](lists.values), lists.owners, count)

    def photo_weights(self, batch: TensorBatch, vectors: SpaceVectors, space: str) -> tuple[Bag, Tensor]:
        """As ``SpaceInput.target_weights``, of one space."""
        found = self.spaces[space]
        assert isinstance(found, SpaceInput)
        return found.target_weights(vectors[space], batch, space, self._items(batch).index_select(0, batch.target))

    def places(self, batch: TensorBatch) -> dict[str, Tensor]:
        """Places of the batch in each table of ids, tokens and lists, with repetitions, flat."""
        found = {name: batch.items.ids[name] for name in self.spec.item_columns}
        found |= {name: batch.ids[name] for name in self.spec.user_columns}
        found |= {name: batch.text[name].values for name in self.spec.text_columns}
        found |= {name: batch.items.lists[name].values for name in self.spec.item_bags}
        return found | {name: batch.lists[name].values for name in self.spec.user_lists}


def check_spaces(spec: InputSpec, vectors: SpaceVectors) -> None:
    """Whether vectors are those of the spaces that a model was made for.

    Raises:
        ValueError: they are of others.
    """
    if vectors.keys() != spec.spaces.keys():
        raise ValueError(
            f"The model takes vectors of {', '.join(spec.spaces) or 'no space'}, and is given those of "
            f"{', '.join(vectors) or 'none'}."
        )


def named_modules(modules: Mapping[str, nn.Module], what: str) -> nn.ModuleDict:
    """Modules by the names that a schema gives.

    Args:
        modules: by name.
        what: bears the names, for the error: column or space.

    Raises:
        BadInput: PyTorch has another use for a name.
    """
    try:
        return nn.ModuleDict(modules)
    except KeyError as error:  # it keeps them beside its own attributes
        raise BadInput(
            f"A {what} of the samples has a name that PyTorch cannot give to a part of a model ({error.args[0]}). Give "
            f"the {what} another name in the schema or in the files that it reads."
        ) from error
