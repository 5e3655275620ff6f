"""The nets that turn photos into features, by name, each with its own weights and preprocessing.

efficientnet_lite0                         comes with the package
torchvision:resnet50@IMAGENET1K_V2         any classifier of torchvision, with the weights of that entry
torchvision:resnet50@weights.safetensors   the same net with weights from a file
timm:vit_small_patch14_dinov2.lvd142m       any net of timm, of the hub, or behind @ with weights from a file
onnx:model.onnx                            any ONNX file, with its preprocessing in model.toml beside it
hf:clip-folder                             the image tower of CLIP or SigLIP, from a folder or by its name on the hub

Any of them with #bf16 behind it computes in bfloat16: up to twice as fast where the processor knows it, and a version
of its own. So does #tf32 on GPUs, where matrix units then take the products of float32 with 10 bits. #int8 computes in
8 bits on CPUs, over twice as fast; it is calibrated on photos, see ``int8``.
#nvjpeg has the GPU decode plain JPEGs, where cores alone do not keep up with it: other pixels, another version.
#photometry, the last of them, puts a dozen numbers of the pixels behind those of the net: brightness, warmth, …
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.imgserver.vision.backbone import (
    BF16,
    HF,
    NVJPEG,
    ONNX,
    TF32,
    TIMM,
    TORCHVISION,
    AnyBackbone,
    Backbone,
    OnnxGraph,
)
from crossmedia.imgserver.vision.efficientnet_lite import DEFAULT, efficientnet_lite0
from crossmedia.imgserver.vision.int8 import Int8Name, int8_backbone
from crossmedia.version import PHOTOMETRY, TEXT


def get_backbone(recipe: str, store: Path | None = None) -> Backbone:
    """The backbone of that name; weights that torchvision publishes are fetched when they are not here yet.

    Args:
        recipe: see the top of this file.
        store: folder of a store whose own calibrated nets may be named.

    Raises:
        BadInput: there is no such backbone, or its files cannot be had or read.
        StoreError: the store's calibrated net has gone, or is damaged.
    """
    if PHOTOMETRY in recipe.removesuffix(PHOTOMETRY):
        raise BadInput(f"{recipe} cannot be: {PHOTOMETRY} is the last ending of a name, and stands there once.")
    if recipe.endswith(PHOTOMETRY):
        plain = get_backbone(recipe.removesuffix(PHOTOMETRY), store)
        if plain.preprocessing.jpeg == "nvjpeg":
            raise BadInput(f"{recipe} cannot be: {PHOTOMETRY} takes pixels that cores decode. Leave out {NVJPEG}.")
        return plain.with_photometry()
    if (named := Int8Name.parse(recipe)) is not None:
        return int8_backbone(get_backbone(named.net), named, store)
    if recipe.endswith(NVJPEG):
        plain = get_backbone(recipe.removesuffix(NVJPEG))
        if isinstance(plain.graph, OnnxGraph):
            raise BadInput(f"{recipe} runs on the CPU, where no GPU decodes its JPEGs. Leave out {NVJPEG}.")
        return replace(plain, recipe=recipe, preprocessing=replace(plain.preprocessing, jpeg="nvjpeg"))
    for form in (BF16, TF32):
        if recipe.endswith(form):
            plain = get_backbone(recipe.removesuffix(form))
            if plain.bf16 or plain.tf32 or plain.int8:
                raise BadInput(f"{recipe} names more than one format of numbers. Give one: {BF16} or {TF32}.")
            if form == TF32 and isinstance(plain.graph, OnnxGraph):
                raise BadInput(f"{recipe} is no net of torch, which alone computes in TF32. Leave out {TF32}.")
            return replace(plain, recipe=recipe, bf16=form == BF16, tf32=form == TF32)
    if recipe == DEFAULT:
        return efficientnet_lite0()
    if recipe.startswith(TORCHVISION):
        from crossmedia.imgserver.vision.torchvision_zoo import torchvision_backbone

        return torchvision_backbone(recipe)
    if recipe.startswith(TIMM):
        from crossmedia.imgserver.vision.timm_zoo import timm_backbone

        return timm_backbone(recipe)
    if recipe.startswith(ONNX):
        from crossmedia.imgserver.vision.onnx_file import onnx_backbone

        return onnx_backbone(recipe)
    if recipe.startswith(HF):
        from crossmedia.imgserver.vision.hf import hf_backbone

        return hf_backbone(recipe)
    raise BadInput(
        f"There is no backbone {recipe!r}. There are {DEFAULT}, torchvision:<model>[@<weights>], "
        f"timm:<model>[@<file>], onnx:<file> and hf:<folder or name>; "
        f"'imgserver backbones' lists them.{did_you_mean(recipe, [DEFAULT])}"
    )


def without_endings(recipe: str) -> str:
    """The name of a model alone, without how its numbers are computed: that of the texts' tower beside the photos'."""
    recipe = recipe.removesuffix(PHOTOMETRY)
    if (named := Int8Name.parse(recipe)) is not None:
        return named.net
    for ending in (NVJPEG, BF16, TF32):
        recipe = recipe.removesuffix(ending)
    return recipe


def any_backbone(recipe: str, store: Path | None = None) -> AnyBackbone:
    """The backbone of that name, of photos or, behind ``text:``, of texts.

    Args:
        recipe: see the top of this file, and of ``text_backbones``.
        store: folder of a store whose own text encoders and calibrated nets may be named.

    Raises:
        BadInput: as ``get_backbone``.
        StoreError: the store's encoder has gone, or is damaged.
    """
    if not recipe.startswith(TEXT):
        return get_backbone(recipe, store)
    from crossmedia.imgserver.vision.text_backbones import text_backbone

    return text_backbone(recipe.removeprefix(TEXT), store)
