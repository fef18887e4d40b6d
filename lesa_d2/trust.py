"""What files that are no programs may name and read: the one decision about classes, functions and pictures.

A YAML config, an override of the command line and a yacs config come from anybody.  What they name is imported and
called, so it must be a class of a kind that configs are made of, or a function that is listed here.  The package alone
does not decide: ``torch.hub.load`` runs what it downloads.
"""

import functools
import importlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError

NAMES_VARIABLE, PATHS_VARIABLE = "LESA_TRUST", "LESA_TRUST_PATHS"
LOCATE = "detectron2.utils.registry.locate"
"""How a config describes a class that is an argument: a call of this function with the class as ``name``."""
PARTIAL = "lesa_d2.config.yaml_form.partial_of"
"""How a config describes a function with some of its arguments."""
REFUSED_ARGUMENTS = {
    "cfg": "detectron2's functions build from it what no file may name",
    "proposal_files": "detectron2 unpickles such files, which runs what is in them",
}
"""Arguments that no file may set, each with the reason."""
PLACES = (
    *("detectron2.data", "detectron2.evaluation", "detectron2.layers", "detectron2.modeling"),
    *("detectron2.solver", "fvcore.common.param_scheduler", "fvcore.nn", "fvcore.transforms"),
    *("lesa_d2.config.yaml_form", "lesa_d2.data", "lesa_d2.evaluation", "lesa_d2.layers", "lesa_d2.modeling"),
    *("torch.nn", "torch.optim", "torch.utils.data", "torchvision.datasets", "torchvision.models"),
    *("torchvision.ops", "torchvision.transforms"),
)
"""Modules whose classes, of an allowed kind, may be named."""
EXCLUDED = (
    "detectron2.modeling.mmdet_wrapper",  # mmdetection imports whatever its own config names
    "torch.utils.data.datapipes",  # they decode pickles
    "torchvision.datasets",  # some read pickles; those that do not are listed
)
LISTED = frozenset(
    {
        "detectron2.data.build.build_batch_data_loader",
        "detectron2.data.build.build_detection_test_loader",
        "detectron2.data.build.build_detection_train_loader",
        "detectron2.data.build.get_detection_dataset_dicts",
        "detectron2.data.build.trivial_batch_collator",
        "detectron2.data.dataset_mapper.DatasetMapper",
        "detectron2.layers.batch_norm.get_norm",
        "detectron2.layers.shape_spec.ShapeSpec",
        "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage",
        "detectron2.modeling.backbone.vit.get_vit_lr_decay_rate",
        "detectron2.modeling.box_regression.Box2BoxTransform",
        "detectron2.modeling.box_regression.Box2BoxTransformLinear",
        "detectron2.modeling.box_regression.Box2BoxTransformRotated",
        "detectron2.modeling.matcher.Matcher",
        "detectron2.solver.build.get_default_optimizer_params",
        "lesa_d2.config.yaml_form.partial_of",
        "lesa_d2.data.coco_folder.coco_folder_split",
        "lesa_d2.data.folder.folder_split",
        "lesa_d2.data.images.ImageMapper",
        "lesa_d2.data.images.build_image_test_loader",
        "lesa_d2.data.images.image_folder",
        "lesa_d2.data.loader.build_train_loader",
        "lesa_d2.data.shape_pictures.shape_images",
        "lesa_d2.data.shapes.shapes_split",
        "lesa_d2.data.stuff_maps.coco_with_stuff_maps",
        "lesa_d2.evaluation.build.read_label_map",
        "lesa_d2.modeling.exact_attention.use_exact_attention",
        "lesa_d2.modeling.norm.make_norm",
        "lesa_d2.modeling.resnet.build_lesa_resnet",
        "lesa_d2.modeling.resnet.make_lesa_stages",
        "torch.nn.functional.gelu",
        "torch.nn.functional.relu",
        "torch.nn.functional.silu",
        "torch.utils.data.dataloader.DataLoader",
        "torch.utils.data.dataloader.default_collate",
        "torchvision.datasets.coco.CocoDetection",
        "torchvision.datasets.folder.ImageFolder",
        *(
            f"torchvision.transforms.transforms.{name}"
            for name in ("Compose", "PILToTensor", "RandomApply", "ToPILImage", "ToTensor")
        ),
    }
)
"""Functions, and classes of no kind, that may be named: those of detectron2's model zoo and of our own configs."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_REFERENCE = re.compile(r"\$\{(oc\.env:[^{}$]*|[^{}$:]*)\}")
_EXPECTED = (
    "a YAML file or an override may name classes of models, optimizers, data sets, samplers, transforms, evaluators "
    "and schedulers, and the functions of the model zoo, from detectron2, torch, torchvision, fvcore and lesa_d2"
)


def allowed(path: str) -> Any:
    """Return the class or function that a file names by its import path.

    Nothing is imported before its package is known to be trusted.

    Raises:
        ConfigError: files may not name it, or it cannot be imported.
    """
    argument = path.partition("=")[0] if isinstance(path, str) else ""
    if argument in REFUSED_ARGUMENTS:
        raise ConfigError(
            f"the config names {path!r}, which is not allowed: {REFUSED_ARGUMENTS[argument]}; only a .py config may"
        )
    found = imported(path)
    if path in _trusted():
        return found
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    is_listed = home in LISTED or path in LISTED
    if is_listed or (isinstance(found, type) and issubclass(found, _kinds()) and _is_in_place(home)):
        return found
    raise _refusal(path, path)


def imported(path: str) -> Any:
    """Return what an import path leads to, if its module is one of :data:`PLACES` or trusted by the user.

    Raises:
        ConfigError: it is not, and nothing has been imported; or it cannot be imported.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ConfigError(
            f"the config names {path!r}, which is no import path of a class or function; references in it are "
            "${key} or ${oc.env:NAME}"
        )
    if not _is_in_place(path, but=()):
        package = path.partition(".")[0]
        is_known = package in sys.stdlib_module_names or any(_is_below(place, package) for place in PLACES)
        raise _refusal(path, path if is_known else package)
    try:
        return _located(path)
    except Exception as error:  # importing a module may raise anything
        raise ConfigError(
            f"the config names {path!r}, which cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _refusal(path: str, trusted: str) -> ConfigError:
    return ConfigError(
        f"the config names {path!r}, which is not allowed: {_EXPECTED}. By other names, a file could run any command; "
        f"if you know who wrote it and what this does, set the environment variable {NAMES_VARIABLE}={trusted}"
    )


def check_names(content: Any, known: Collection[str] = ()) -> None:
    """Check everything that the content of a file names.

    Args:
        content: dicts, lists and values, references unresolved.
        known: what is not checked, because a program has named it.

    Raises:
        ConfigError: it names something that :func:`allowed` refuses.
    """
    for name in sorted(set(named(content)).difference(known)):
        allowed(name)


def named(content: Any) -> Iterator[str]:
    """Yield every import path in dicts and lists, and every reference that is more than a key, ``${f:…}``.

    A resolver can make what it returns from text: ``${oc.create:…}``.
    """
    if isinstance(content, Mapping):
        target = content.get("_target_")
        if _is_named(target, LOCATE):
            yield str(content.get("name"))
        elif "_target_" in content and not _makes_function(target):
            yield str(target)
        if "_target_" in content:
            yield from refused_arguments(content)
        for value in content.values():
            yield from named(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from named(value)
    elif isinstance(content, str) and "${" in _REFERENCE.sub("", content):
        yield content


def refused_arguments(arguments: Mapping) -> Iterator[str]:
    """Yield ``key=value`` for all arguments that no file may set, and that have a value."""
    for name in REFUSED_ARGUMENTS:
        if arguments.get(name):
            yield f"{name}={arguments[name]}"


def _makes_function(target: Any) -> bool:
    """Tell whether a target is a function or class, or a node that makes one of a name, which :func:`named` yields.

    Any other node could return a text, which is a name to detectron2.
    """
    if not isinstance(target, Mapping):
        return callable(target)
    inner = target.get("_target_")
    return _is_named(inner, LOCATE) or (_is_named(inner, PARTIAL) and _makes_function(target.get("function")))


def _is_named(target: Any, path: str) -> bool:
    return target == path or getattr(target, "__name__", None) == path.rpartition(".")[2]


def _trusted() -> list[str]:
    """Return the packages and import paths that the user trusts."""
    return [name.strip() for name in os.environ.get(NAMES_VARIABLE, "").split(",") if name.strip()]


def _is_in_place(path: str, but: Collection[str] = EXCLUDED) -> bool:
    if any(_is_below(path, place) for place in _trusted()):
        return True
    return any(_is_below(path, place) for place in PLACES) and not any(
        _is_below(path, place) for place in but
    )


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def _located(path: str) -> Any:
    """Import the module of a path, and return what it holds under the rest of the path."""
    names = path.split(".")
    found, depth = importlib.import_module(names[0]), 1
    while depth < len(names):
        module = ".".join(names[: depth + 1])
        try:
            found = sys.modules.get(module) or importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            break
        depth += 1
    return functools.reduce(getattr, names[depth:], found)


@functools.cache
def _kinds() -> tuple[type, ...]:
    """Return the classes whose subclasses may be named."""
    from detectron2.data import DatasetMapper
    from detectron2.data.transforms import Augmentation, Transform
    from detectron2.evaluation import DatasetEvaluator
    from fvcore.common.param_scheduler import ParamScheduler
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset, Sampler

    of_training = (nn.Module, Optimizer, ParamScheduler, LRScheduler)
    return (*of_training, Dataset, Sampler, DatasetMapper, Transform, Augmentation, DatasetEvaluator)


def may_read(file: str | Path, folder: str | Path) -> bool:
    """Tell whether a file that a data set names lies in its folder, or in one of ``LESA_TRUST_PATHS``.

    The names decide: links in the folder, which somebody has put there, may lead elsewhere.
    """
    places = [os.fspath(folder), *filter(None, os.environ.get(PATHS_VARIABLE, "").split(os.pathsep))]
    path = Path(os.path.abspath(file))
    return any(path.is_relative_to(os.path.abspath(os.path.expanduser(place))) for place in places)
