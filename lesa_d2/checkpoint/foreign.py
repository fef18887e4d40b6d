"""Give the weights of other code bases our names, and refuse those that fit our models and mean something else.

The weights of a ResNet do not show all that its outputs depend on.  MSRA's ResNets, from which most older
detectors of detectron2's model zoo were trained, take images in BGR and have the stride of a block in its first
1×1 convolution; ours take RGB, divided by the standard deviation, and have it in the 3×3.  All shapes agree.  The
colours are converted exactly, in the weights of the stem; the stride cannot be.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts, convert_c2_detectron_names
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..errors import CheckpointError, listed
from .kinds import kind_of
from .names import (
    CAFFE2_PARTS,
    CLASSIFIER,
    CLASSIFIER_NAMES,
    FC_IN_STEM,
    FOREIGN,
    TORCHVISION_DETECTOR_NAMES,
    TORCHVISION_OLD,
    Names,
    of_classifier,
    strip_prefixes,
)
from .official import StateDict, detector_names, rename

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the images that our models take, in RGB."""
SAME_MEAN = 2.0
"""Grey levels by which the means of another model may differ; they cannot be converted exactly."""
NORM_EPS = 1e-5
V2_NORM = re.compile(r"backbone\.fpn\.\w+\.\d\.1\.\w+|roi_heads\.box_head\.\d\.1\.\w+")
"""Names of norms in FPN and heads, which torchvision's second generation of detectors has, and ours have not."""
COCO_ROWS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
"""The 80 of torchvision's 91 classes of COCO that exist, in our order; its class 0 is the background."""
TORCHVISION, OURS, CAFFE2, MMCV_CAFFE = "torchvision", "lesa_d2", "Caffe2", "mmcv, style='caffe'"

WRONG_STRIDE = (
    "the blocks of this ResNet have their stride in the first 1×1 convolution, as MSRA's, and ours in the 3×3: the "
    "shapes fit, but the features would be wrong, and no conversion changes that. Start from weights of torchvision: "
    "train.init_checkpoint=torchvision://resnet50, or detectron2://ImageNetPretrained/torchvision/R-50.pkl"
)
UNKNOWN_ORIGIN = (
    "these weights do not show whether their images are RGB or BGR, nor where the blocks have their stride, and most "
    "such files come from MSRA's ResNets, which differ from ours in both. Convert them with the config that they "
    "belong to: lesa convert --from detectron2 --config-file CONFIG SRC DST.pth"
)


@dataclass(frozen=True)
class Origin:
    """Say of the model that weights were trained with what they do not show.

    ``mean`` and ``std`` are those of its images, in the order of their channels: BGR if ``is_bgr``, else RGB.
    ``stride_in_1x1`` tells that blocks of stride 2 have it in their first convolution.
    """

    is_bgr: bool
    stride_in_1x1: bool
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


@dataclass(frozen=True)
class Notes:
    """Say where tensors of our names come from.

    ``renamed`` maps our names to those in the file, ``converted`` our names to what was done to the values.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)


def origin_of(cfg: CfgNode | DictConfig) -> Origin:
    """Read from a detector's config, of either kind, what its weights do not show."""
    if isinstance(cfg, CfgNode):
        return Origin(
            is_bgr=cfg.INPUT.FORMAT == "BGR",
            stride_in_1x1=bool(cfg.MODEL.RESNETS.STRIDE_IN_1X1),
            mean=tuple(cfg.MODEL.PIXEL_MEAN),
            std=tuple(cfg.MODEL.PIXEL_STD),
        )
    return Origin(
        is_bgr=cfg.model.get("input_format") == "BGR",
        stride_in_1x1=_has_true(OmegaConf.to_container(cfg.model, resolve=False), "stride_in_1x1"),
        mean=tuple(cfg.model.pixel_mean),
        std=tuple(cfg.model.pixel_std),
    )


def author_of(checkpoint: Mapping[str, Any]) -> str:
    """Return who wrote a checkpoint, as far as it says: detectron2's ``__author__``, or mmcv's Caffe style."""
    author = checkpoint.get("__author__")
    if isinstance(author, str):
        return author
    meta = checkpoint.get("meta")
    configs = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    is_caffe = any(re.search(r"""style['"]?\s*[=:]\s*['"]caffe""", str(config)) for config in configs)
    return MMCV_CAFFE if is_caffe else ""


def to_our_names(
    state_dict: Mapping[str, Tensor], *, author: str = "", origin: Origin | None = None
) -> tuple[StateDict, Notes]:
    """Return the tensors of a checkpoint of any known kind under our names, and what was done.

    A classifier's names begin with ``backbone.``, those of a detector's backbone with ``backbone.bottom_up.``.
    Tensors that have our names already, or that no table knows, keep theirs.  Layers stay what they are: the
    dense 3×3 of a convolutional network is ``res4.1.conv2.weight``.

    Args:
        state_dict: tensors by name.
        author: as from :func:`author_of`.
        origin: of the model that the weights were trained with, where it is known.

    Raises:
        CheckpointError: the weights mean something else than those of our models, or may do so and ``origin`` is
            not given.
    """
    kind = kind_of(state_dict)
    if not kind and any(FOREIGN.match(name.removeprefix("module.")) for name in state_dict):
        raise CheckpointError(
            "the file has the names of torchvision's ResNets in a model that is not known here: expected bottleneck "
            f"blocks, alone or in one of its Faster or Mask R-CNNs, got {listed(list(state_dict))}. Start from "
            "torchvision://resnet50"
        )
    if origin is None and _is_doubtful(kind, state_dict, author):
        raise CheckpointError(_refusal(kind, state_dict, author))
    weights, notes = translate(state_dict)
    return (weights, notes) if origin is None else _with_our_input(weights, notes, origin)


def translate(state_dict: Mapping[str, Tensor]) -> tuple[StateDict, Notes]:
    """Return what :func:`to_our_names` does, for a model whose images and strides are those of the file."""
    given = strip_prefixes(state_dict, ("module.",))
    kind = kind_of(given)
    return TRANSLATIONS[kind](given) if kind in TRANSLATIONS else (given, Notes())


def fit_to_images(model: nn.Module, weights: StateDict, is_foreign: bool) -> dict[str, str]:
    """Convert a classifier's stem, in place, for a model whose images are not RGB divided by our standard deviation.

    Args:
        model: its buffers ``pixel_mean`` and ``pixel_std`` say what its images are.
        weights: under our names.
        is_foreign: whether the file had other names, so that it is known what images it was trained on.

    Returns:
        What was done, by name.

    Raises:
        CheckpointError: the model's images have another mean, or are those of detectron2's BGR models while it is not
            known what the weights were trained on.
    """
    found = [getattr(model, name, None) for name in ("pixel_mean", "pixel_std")]
    if any(isinstance(value, Tensor) and value.is_meta for value in found):  # a model without values
        return {}
    mean, std = (value.flatten().tolist() if isinstance(value, Tensor) else [] for value in found)
    if len(mean) != len(MEAN) or len(std) != len(STD):
        return {}
    is_bgr = mean[0] < mean[-1]
    mean, std = (values[::-1] if is_bgr else values for values in (mean, std))
    scale = torch.tensor(std) / torch.tensor(STD)
    if not is_bgr and (not is_foreign or torch.allclose(scale, torch.ones(3), atol=1e-2)):
        return {}
    if not is_foreign or any(abs(a - b) > SAME_MEAN for a, b in zip(mean, MEAN, strict=True)):
        raise CheckpointError(
            f"this model's images have the mean {[*map(round, mean)]} and deviation {[*map(round, std)]}, red first, "
            f"in {'BGR' if is_bgr else 'RGB'}; a classifier takes RGB with mean {list(MEAN)}, deviation {list(STD)}. "
            "Set model.pixel_mean, model.pixel_std and model.input_format to those of the classifier"
        )
    done = {}
    for name in [name for name in weights if name.endswith("stem.conv1.weight")]:
        stem = weights[name] * scale.to(weights[name].dtype).view(-1, 1, 1)
        weights[name] = stem.flip(1) if is_bgr else stem
        done[name] = "for the images of this model"
    return done


def match_by_ends(model: nn.Module, weights: Mapping[str, Tensor], author: str) -> tuple[StateDict, Notes]:
    """Give tensors the names that a model of detectron2 has, matched by their ends as detectron2 does.

    Args:
        model: whose names and shapes are looked for.
        weights: tensors by name; those of the author "Caffe2" get detectron2's names first.  What matches nothing
            keeps its name.
        author: as from :func:`author_of`.
    """
    given, keys = dict(weights), {key: key for key in weights}
    if author == CAFFE2:
        given, keys = convert_c2_detectron_names(given)
    converted = _complete_norms(given, r"\.norm\.weight$", variance=1.0)  # the value that detectron2 fills in
    names = {id(value): name for name, value in given.items()}
    matched = align_and_update_state_dicts(model.state_dict(), given, c2_conversion=False)
    sources = {name: names[id(value)] for name, value in matched.items()}
    return matched, Notes(
        {name: keys[source] for name, source in sources.items() if keys.get(source, name) != name},
        {name: converted[source] for name, source in sources.items() if source in converted},
    )


def _is_doubtful(kind: str, given: Mapping[str, Tensor], author: str) -> bool:
    """Return whether weights may belong to another order of colours, or another stride, than ours."""
    if author == TORCHVISION:
        return False
    means = next(
        (value.flatten() for name, value in given.items() if name.endswith("pixel_mean")), torch.zeros(1)
    )
    return (
        kind.startswith("caffe2")
        or author == MMCV_CAFFE
        or (kind == "detector" and author not in ("", OURS))
        or bool(means[0] < means[-1])  # blue comes first
        or _stem_norm_lacks_statistics(given)
    )


def _stem_norm_lacks_statistics(names: Mapping[str, Tensor]) -> bool:
    """Return whether a trained stem has no statistics, or those that detectron2 fills in for FrozenBN."""
    stems = [name.removesuffix("weight") for name in names if name.endswith("stem.conv1.norm.weight")]
    return any(stem + "running_var" not in names or _is_filled_in(names, stem) for stem in stems)


def _is_filled_in(names: Mapping[str, Tensor], norm: str) -> bool:
    weight, mean, variance = (names.get(norm + leaf) for leaf in ("weight", "running_mean", "running_var"))
    if weight is None or mean is None or variance is None:
        return False
    is_trained = len(weight.unique()) > 1
    return is_trained and not mean.any() and bool(((variance - (1 - NORM_EPS)).abs() < 1e-7).all())


def _refusal(kind: str, given: Mapping[str, Tensor], author: str) -> str:
    """Return why weights of unknown origin are refused; ResNeXts of Caffe2 have their stride in the 3×3."""
    second = given.get("res2_0_branch2b_w")
    is_dense = second is None or second.shape[0] == second.shape[1]
    is_msra = author == MMCV_CAFFE or (kind.endswith("imagenet") and is_dense)
    return WRONG_STRIDE if is_msra else UNKNOWN_ORIGIN


def _by_table(names: Names, given: StateDict) -> tuple[StateDict, Notes]:
    weights, sources, _ = rename(names, given)
    changed = [name for name, key in sources.items() if weights[name].shape != given[key].shape]
    weights |= {key: value for key, value in given.items() if names.ours(key) is None}
    return weights, Notes(sources, dict.fromkeys(changed, "1-D projection given its fourth axis"))


def _from_classifier(given: StateDict) -> tuple[StateDict, Notes]:
    bare, notes = _by_table(CLASSIFIER_NAMES, of_classifier(given))
    keys = dict(zip(of_classifier(given), given, strict=True))
    return (
        {CLASSIFIER + name: value for name, value in bare.items()},
        Notes(
            {CLASSIFIER + name: keys[key] for name, key in notes.renamed.items()},
            {CLASSIFIER + name: how for name, how in notes.converted.items()},
        ),
    )


def _from_detector(given: StateDict) -> tuple[StateDict, Notes]:
    return _by_table(detector_names(given), given)


def _from_torchvision_detector(given: StateDict) -> tuple[StateDict, Notes]:
    if any(V2_NORM.fullmatch(name) for name in given):
        raise CheckpointError(
            "torchvision's detectors of the second generation (…_v2) have norms in FPN and heads, which these models "
            "lack. Start from the first (maskrcnn_resnet50_fpn), or from torchvision://resnet50"
        )
    keys = {_present_name(key): key for key in given}
    weights, notes = _by_table(TORCHVISION_DETECTOR_NAMES, {new: given[old] for new, old in keys.items()})
    sources = {name: keys[new] for name, new in notes.renamed.items()}
    return weights, Notes(sources, _arrange_classes(weights))


def _present_name(key: str) -> str:
    for old, new in TORCHVISION_OLD:
        key = re.sub(old, new, key)
    return key


def _arrange_classes(weights: StateDict) -> dict[str, str]:
    """Put torchvision's classes, in place, into our order: the background last, or nowhere; return what was done."""
    done = {}
    number = len(weights.get("roi_heads.box_predictor.cls_score.bias", ()))
    rows = COCO_ROWS if number == max(COCO_ROWS) + 1 else list(range(1, number))
    for module, kept, size in (
        ("box_predictor.cls_score", [*rows, 0], 1),
        ("box_predictor.bbox_pred", rows, 4),
        ("mask_head.predictor", rows, 1),
    ):
        for name in (f"roi_heads.{module}.weight", f"roi_heads.{module}.bias"):
            if name in weights and len(weights[name]) == number * size:
                weights[name] = weights[name].unflatten(0, (number, size))[kept].flatten(0, 1)
                done[name] = f"classes in our order, {len(rows)} of {number}"
    return done


def _from_detectron2_imagenet(given: StateDict) -> tuple[StateDict, Notes]:
    keys = {CLASSIFIER + key.replace(FC_IN_STEM, "linear."): key for key in given}
    return {name: given[key] for name, key in keys.items()}, Notes(keys)


def _from_caffe2(given: StateDict) -> tuple[StateDict, Notes]:
    """Rename by detectron2's own function, which also moves the background behind the other classes."""
    renamed, keys = convert_c2_detectron_names(given)
    parts = CAFFE2_PARTS if kind_of(given) == "caffe2-detector" else {"stem.": CLASSIFIER, "res": CLASSIFIER}
    names = {
        name: next((p for start, p in parts.items() if name.startswith(start)), "") + name for name in renamed
    }
    weights = {names[name]: value for name, value in renamed.items()}
    moved = [names[name] for name in renamed if renamed[name] is not given[keys[name]]]
    notes = Notes(
        {names[name]: key for name, key in keys.items()}, dict.fromkeys(moved, "background moved or left out")
    )
    return weights, notes


TRANSLATIONS: dict[str, Callable[[StateDict], tuple[StateDict, Notes]]] = {
    "torchvision": _from_classifier,
    "official-imagenet": _from_classifier,
    "official-detector": _from_detector,
    "torchvision-detector": _from_torchvision_detector,
    "detectron2-imagenet": _from_detectron2_imagenet,
    "caffe2-imagenet": _from_caffe2,
    "caffe2-detector": _from_caffe2,
}


def _with_our_input(weights: StateDict, notes: Notes, origin: Origin) -> tuple[StateDict, Notes]:
    """Convert the weights of a model of ``origin`` to one that takes our images."""
    if origin.stride_in_1x1:
        raise CheckpointError(WRONG_STRIDE)
    mean, std = (values[::-1] if origin.is_bgr else values for values in (origin.mean, origin.std))
    if len(mean) != len(MEAN) or any(abs(a - b) > SAME_MEAN for a, b in zip(mean, MEAN, strict=True)):
        raise CheckpointError(
            f"the config's images have the mean {list(origin.mean)}, those of our models {list(MEAN)} (RGB): weights "
            "cannot be converted to another mean"
        )
    weights, converted = dict(weights), dict(notes.converted)
    for name in [name for name in weights if name.endswith("stem.conv1.weight")]:
        stem = weights[name].flip(1) if origin.is_bgr else weights[name]
        scale = torch.tensor(STD) / torch.tensor(std)
        if origin.is_bgr or not torch.allclose(scale, torch.ones(3)):
            weights[name] = stem * scale.to(stem.dtype).view(-1, 1, 1)
            converted[name] = "for RGB images divided by our standard deviation"
    converted |= _complete_norms(weights, r"\b(stem|res\d).*\.norm\.weight$", variance=1 - NORM_EPS)
    return {n: v for n, v in weights.items() if n not in ("pixel_mean", "pixel_std")}, Notes(
        notes.renamed, converted
    )


def _complete_norms(weights: StateDict, pattern: str, variance: float) -> dict[str, str]:
    """Give norms that are only a weight and a bias, in place, the statistics that change nothing."""
    done: dict[str, str] = {}
    for name in [name for name in weights if re.search(pattern, name)]:
        norm = name.removesuffix("weight")
        if norm + "running_var" not in weights:
            weights[norm + "running_mean"] = torch.zeros_like(weights[name])
            weights[norm + "running_var"] = torch.full_like(weights[name], variance)
            done |= dict.fromkeys(
                (norm + "running_mean", norm + "running_var"), "of a norm without statistics"
            )
    return done


def _has_true(node: Any, key: str) -> bool:
    """Return whether a nested container has ``key`` with a true value anywhere."""
    if isinstance(node, dict):
        return node.get(key) is True or any(_has_true(value, key) for value in node.values())
    return isinstance(node, list) and any(_has_true(value, key) for value in node)
