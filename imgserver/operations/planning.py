"""How much it takes: servers, workers, disk, memory, network and hours, from constants that the benchmarks measured.

Each constant names the command that prints it; all are of one machine of 2 cores. What embeds is planned as what its
parts allow side by side (``EmbeddingCost``), the rest is multiplied. What a plan cannot know is how far workers and
servers stay independent of one another when there are many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from crossmedia.imgserver.vision.cost import EmbeddingCost

# crossmedia imgserver plan --measure, EfficientNet-Lite0, photos of 500 x 500: seconds of a core a photo, first in
# line for 2 cores that other work wanted too. The option puts those of the machine at hand in their place.
COST = EmbeddingCost(decode_s=2350e-6, cnn_s=9670e-6, own_s=480e-6)
# python -m benchmarks.fetch, 10,000 uniform ids: CPU of the server a vector
SERVER_US_PER_VECTOR = 0.18
# python -m benchmarks.train: DIN, 50 behaviours, vectors fetched, 2 cores
SAMPLES_PER_CORE_S = 5_181.0
# python -m benchmarks.learn: the same with a head that learns, CPU a sample of the server and of the trainer
HEAD_SERVER_US_PER_SAMPLE = 108.0
HEAD_TRAINER_US_PER_SAMPLE = 196.0
# python -m benchmarks.bytes: a row of 50 behaviours with ids only, of users with 20 rows, and a row of the item table,
# zstd; different images a row in a shuffled batch of 1,024
BYTES_PER_ROW = 29.3
BYTES_PER_ITEM = 13.9
IMAGES_PER_ROW = 15_307 / 1024
# python -m benchmarks.table: memory of the table an image, beside the rows, which are mapped
TABLE_BYTES_PER_IMAGE = 36.0
INDEX_BYTES_PER_ENTRY = 100.0
BATCH = 1024
# What is narrower than the cores themselves.
NARROW = {
    "decoding": "The processes that decode are the narrow part of embedding; give --decode-threads more.",
    "GPU": "The GPU is the narrow part of embedding: more cores would add nothing.",
    "process": "Embedding is held up by the one process that reads and writes, whose Python runs one thread at a time: "
    "more cores or GPUs add nothing to it. Start several on a machine, each with a --part, and fewer machines do.",
}
LOAD = 0.5  # of a server's cores: copies take over from one that dies


@dataclass(frozen=True)
class Sizes:
    """What is planned for.

    Attributes:
        images: in the catalogue.
        rows: of samples, a pass over which is ``epochs``.
        dim: numbers in a vector.
        feature_dim: numbers in a feature of the backbone.
        epochs: passes over the rows.
        embed_hours: in which the catalogue is to be embedded.
        train_hours: in which training is to end.
        cores: of a machine.
        memory_gb: of a machine.
        head: widths of a head that learns, behind the feature; empty: vectors are stored ones.
    """

    images: int
    rows: int
    dim: int = 64
    feature_dim: int = 1280
    epochs: int = 1
    embed_hours: float = 24.0
    train_hours: float = 24.0
    cores: int = 32
    memory_gb: float = 128.0
    head: tuple[int, ...] = ()


@dataclass(frozen=True)
class CapacityPlan:
    """What it takes; machines have ``Sizes.cores`` cores.

    Attributes:
        embed_core_hours: of decoding, of the CNN where cores compute it, and of the process between them.
        embed_photos_s: that one machine embeds.
        embed_machines: to be done in time.
        feature_tb: of stored features, fp16, with their index.
        vector_gb: of stored vectors, fp16, with their index.
        server_memory_gb: so that vectors are answered from memory: table and mapped rows of vectors.
        servers: for memory and for CPU.
        samples_tb: of rows with ids only, and of the item table: as many items as images.
        train_core_hours: of the trainers.
        workers: machines that train, to be done in time.
        network_mb_s: vectors and gradients between all servers and all workers.
        step_mb: bytes of one step of one worker.
        notes: where the design changes.
    """

    embed_core_hours: float
    embed_photos_s: float
    embed_machines: int
    feature_tb: float
    vector_gb: float
    server_memory_gb: float
    servers: int
    samples_tb: float
    train_core_hours: float
    workers: int
    network_mb_s: float
    step_mb: float
    notes: list[str] = field(default_factory=list)


def make_plan(sizes: Sizes, cost: EmbeddingCost = COST) -> CapacityPlan:
    """Say what it takes, where a photo costs ``cost`` to embed."""
    photos_s = cost.photos_per_s(sizes.cores)
    embed_machines = math.ceil(sizes.images / photos_s / 3600 / sizes.embed_hours)
    entry = INDEX_BYTES_PER_ENTRY
    feature_bytes = sizes.images * (2 * sizes.feature_dim + entry)
    vector_bytes = sizes.images * (2 * sizes.dim + entry)
    memory = sizes.images * (TABLE_BYTES_PER_IMAGE + 2 * sizes.dim)

    samples = sizes.rows * sizes.epochs
    per_sample_s = HEAD_TRAINER_US_PER_SAMPLE / 1e6 if sizes.head else 1 / SAMPLES_PER_CORE_S
    train_core_hours = samples * per_sample_s / 3600
    workers = math.ceil(train_core_hours / sizes.train_hours / sizes.cores)
    samples_per_s = samples / sizes.train_hours / 3600
    parameters = head_parameters(sizes)
    vector_bytes_on_wire = 8 + 1 + (4 if sizes.head else 2) * (sizes.head[-1] if sizes.head else sizes.dim)
    if sizes.head:
        vector_bytes_on_wire += 8 + 4 * sizes.head[-1]  # the gradient's way
    by_memory = math.ceil(memory / (sizes.memory_gb * 1e9))
    server_us = HEAD_SERVER_US_PER_SAMPLE if sizes.head else SERVER_US_PER_VECTOR * IMAGES_PER_ROW
    by_cpu = math.ceil(samples_per_s * server_us / 1e6 / sizes.cores / LOAD)
    servers = max(by_memory, by_cpu, 1)
    step = BATCH * IMAGES_PER_ROW * vector_bytes_on_wire + servers * 8 * parameters  # a head there, its gradient back
    plan = CapacityPlan(
        embed_core_hours=sizes.images * cost.core_s / 3600,
        embed_photos_s=photos_s,
        embed_machines=embed_machines,
        feature_tb=feature_bytes / 1e12,
        vector_gb=vector_bytes / 1e9,
        server_memory_gb=memory / 1e9,
        servers=servers,
        samples_tb=(sizes.rows * BYTES_PER_ROW + sizes.images * BYTES_PER_ITEM) / 1e12,
        train_core_hours=train_core_hours,
        workers=workers,
        network_mb_s=samples_per_s / BATCH * step / 1e6,
        step_mb=step / 1e6,
    )
    plan.notes.extend(_notes(sizes, cost, plan, by_memory))
    return plan


def head_parameters(sizes: Sizes) -> int:
    """Weights and biases of the head."""
    widths = (sizes.feature_dim, *sizes.head)
    return sum(before * after + after for before, after in pairwise(widths))


def _notes(sizes: Sizes, cost: EmbeddingCost, plan: CapacityPlan, by_memory: int) -> list[str]:
    notes = []
    if plan.embed_machines > 1:
        notes.append(
            f"Embedding needs {plan.embed_machines} machines: 'precompute --part i/{plan.embed_machines}' on each, or "
            f"--engine ray."
        )
        if (why := NARROW.get(cost.narrowest(sizes.cores))) is not None:
            notes.append(f"{why} That allows {plan.embed_photos_s:,.0f} photos/s on {sizes.cores} cores.")
    if by_memory > 1:
        notes.append(
            f"Vectors do not fit the memory of one server. Rows are mapped, so what is rarely asked for may stay on "
            f"disk, but the table alone takes {sizes.images * TABLE_BYTES_PER_IMAGE / 1e9:,.0f} GB. The {by_memory} "
            f"servers must each hold a part of the images: 'imgserver serve --servers --me', 'imgserver reshard'."
        )
    if plan.feature_tb > 16:
        notes.append(
            f"{plan.feature_tb:,.0f} TB of features: they stay in the shards' Parquet files, and on the servers only "
            f"if a head learns from them."
        )
    if plan.workers > 1:
        notes.append(
            f"Training needs {plan.workers} machines, or {sizes.train_hours * plan.workers:,.0f} hours on one. "
            f"'torchrun … -m crossmedia.trainer fit' spans them."
        )
    of_head = plan.servers * 8 * head_parameters(sizes) / 1e6 if sizes.head else 0.0
    if of_head > plan.step_mb / 2:
        notes.append(
            f"{of_head:,.1f} of the {plan.step_mb:,.1f} MB of a step are the head, to each of {plan.servers} servers, "
            f"and its gradient. Larger batches make that less; a head that belongs to the servers would not travel, "
            f"and is not built."
        )
    return notes
