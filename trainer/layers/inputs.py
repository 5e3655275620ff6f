"""From ids, text and image vectors to the numbers that a model starts from; shared by all models with embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.columns import ACTION
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.layers.jagged import segment_mean
from crossmedia.trainer.tensors import AGE_BUCKETS, ImageVectors, TensorBatch

EMBEDDING_STD = 0.02  # that a model begins with


@dataclass(frozen=True)
class InputSpec:
    """Which columns there are, with the size of each vocabulary.

    Attributes:
        item_columns: ids that an item has, as target and in the history.
        user_columns: the other id columns.
        text_columns: token columns of the target.
        image_vocabulary_size: of ``image_id`` as a sparse feature; 0 when the samples have no images.
        actions: kinds of behaviours, 0 when there is no history.
        vector_dim: D of the image vectors; 0: images off.
        labels: L labels that are trained, in order.
        max_history: behaviours that a history holds at most.
    """

    item_columns: dict[str, int]
    user_columns: dict[str, int]
    text_columns: dict[str, int]
    image_vocabulary_size: int
    actions: int
    vector_dim: int = 0
    labels: tuple[str, ...] = ("label",)
    max_history: int = 50

    @classmethod
    def of(cls, samples: Samples, vector_dim: int, labels: tuple[str, ...] = ()) -> InputSpec:
        """What a folder of samples has.

        Args:
            samples: the folder.
            vector_dim: D of the vectors; 0 leaves them out.
            labels: those to train; empty takes the first.

        Raises:
            BadInput: the samples have no such label.
        """
        if unknown := [name for name in labels if name not in samples.labels]:
            raise BadInput(
                f"The samples in {samples.folder} have no label {unknown[0]!r}; there are: "
                f"{', '.join(samples.labels)}.{did_you_mean(unknown[0], samples.labels)}"
            )
        item = {n: s for n, s in samples.history_columns.items() if n != ACTION} or {
            n: s for n, s in samples.id_columns.items() if n == "item_id"
        }
        user = {n: s for n, s in samples.id_columns.items() if n not in item}
        return cls(
            item,
            user,
            dict(samples.text_columns),
            samples.image_vocabulary_size,
            samples.history_columns.get(ACTION, 0),
            vector_dim,
            labels or samples.labels[:1],
            samples.max_history,
        )

    @property
    def vocabularies(self) -> dict[str, int]:
        """Size of each vocabulary of ids and tokens, by name, ``image_id`` included."""
        sizes = {**self.item_columns, **self.user_columns, **self.text_columns}
        return sizes | ({"image_id": self.image_vocabulary_size} if self.image_vocabulary_size else {})


class ImageProjection(nn.Module):
    """Image vectors to the width of the model; a missing image is a learned vector of its own.

    It begins at the scale of embeddings, for vectors of mean square 1: at PyTorch's own, thirty times as large, images
    drown the ids at first, and the model never quite recovers.

    Args:
        dim: D.
        width: W, numbers that the model sees.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.linear = nn.Linear(dim, width)
        nn.init.normal_(self.linear.weight, std=EMBEDDING_STD / dim**0.5)
        nn.init.zeros_(self.linear.bias)
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: ImageVectors) -> Tensor:
        """Shape (K + 1, W): one row an image, and last the row of the null image, so that index -1 finds it."""
        rows = torch.where(vectors.ok[:, None], self.linear(vectors.values), self.missing)
        return torch.cat([rows, self.missing[None]])


@dataclass(frozen=True)
class Inputs:
    """What ``ModelInputs`` makes. The image's part of an item, when images are on, is its last W numbers.

    Attributes:
        target: shape (B, E), the impression's item.
        history: shape (N, E), the behaviours, in the same space as the target.
        other: shape (B, O), user and text.
        vectors: the images' vectors as they came, for models that compare them; None when images are off.
    """

    target: Tensor
    history: Tensor
    other: Tensor
    vectors: ImageVectors | None = None


class ModelInputs(nn.Module):
    """Embeds every column; history columns share the table of the id column of their name.

    Without vectors a model still gets ``image_id`` as a sparse id, so that what vectors add is the picture's and not
    the id's. An item is the concatenation of its ids, of a context (for a behaviour its kind and age, for the target
    place 0 of both), and of its image when images are on.

    Args:
        spec: columns and sizes.
        width: W, numbers in an embedding.

    Raises:
        BadInput: a column has the name of an attribute of modules, such as ``type``, or a dot in its name.
    """

    def __init__(self, spec: InputSpec, width: int):
        super().__init__()
        self.spec, self.width = spec, width
        tables = {name: nn.Embedding(size, width) for name, size in spec.vocabularies.items()}
        try:
            self.tables = nn.ModuleDict(tables)
        except KeyError as error:  # it keeps tables beside its own attributes
            raise BadInput(
                f"A column of the samples has a name that PyTorch cannot give to a table ({error.args[0]}). Give the "
                f"column another name in the files that the schema reads."
            ) from error
        self.action = nn.Embedding(max(spec.actions, 1), width)
        self.age = nn.Embedding(AGE_BUCKETS, width)
        for table in (*self.tables.values(), self.action, self.age):
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        self.projection = ImageProjection(spec.vector_dim, width) if spec.vector_dim else None

    @property
    def item_width(self) -> int:
        """E."""
        parts = len(self.spec.item_columns) + bool(self.spec.image_vocabulary_size) + bool(self.projection) + 1
        return parts * self.width

    @property
    def other_width(self) -> int:
        """O."""
        return (len(self.spec.user_columns) + len(self.spec.text_columns)) * self.width

    def forward(self, batch: TensorBatch, vectors: ImageVectors | None) -> Inputs:
        """Embed a batch.

        Raises:
            ValueError: the model was made with images and gets none, or the other way round.
        """
        if (vectors is None) != (self.projection is None):
            raise ValueError("Image vectors must be given exactly when the model was made with images.")
        target, history = self._ids(batch)
        if vectors is not None and self.projection is not None and batch.images is not None:
            of_target, of_history = _shown(self.projection(vectors), batch)
            target.append(of_target)
            history.append(of_history)
        t = torch.cat(target, dim=1)
        h = torch.cat(history, dim=1) if batch.history else t.new_zeros((0, t.shape[1]))
        other = [self.tables[name](batch.ids[name]) for name in self.spec.user_columns]
        other += [
            segment_mean(self.tables[name](tokens), rows_, batch.rows) for name, (tokens, rows_) in batch.text.items()
        ]
        return Inputs(t, h, torch.cat(other, dim=1), vectors)

    def _ids(self, batch: TensorBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Embeddings of targets and of behaviours, one a column, and the context."""
        target = [self.tables[name](batch.ids[name]) for name in self.spec.item_columns]
        history = [self.tables[name](batch.history[name]) for name in self.spec.item_columns if batch.history]
        if batch.images is not None:
            index = batch.images.unique_index
            of_target, of_history = _shown(self.tables["image_id"](torch.cat([index, index.new_zeros(1)])), batch)
            target.append(of_target)
            history.append(of_history)
        zero = batch.lengths.new_zeros(batch.rows)
        target.append(self.action(zero) + self.age(zero))
        if batch.history:
            history.append(self.action(batch.history[ACTION]) + self.age(batch.history_age))
        return target, history

    def places(self, batch: TensorBatch) -> dict[str, Tensor]:
        """Places of the batch in each table of ids and tokens, with repetitions, flat."""
        found = {name: [ids] for name, ids in batch.ids.items()}
        for name in self.spec.item_columns if batch.history else ():
            found[name].append(batch.history[name])
        found |= {name: [tokens] for name, (tokens, _) in batch.text.items()}
        if batch.images is not None:
            found["image_id"] = [batch.images.unique_index]
        return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}


def _shown(images: Tensor, batch: TensorBatch) -> tuple[Tensor, Tensor]:
    """Rows of ``images``, shape (K + 1, W), that targets show, shape (B, W), and behaviours, shape (N, W)."""
    assert batch.images is not None
    last = images.shape[0]  # which -1 stands for
    target, history = (places % last for places in (batch.images.target, batch.images.history))
    return images.index_select(0, target), images.index_select(0, history)
