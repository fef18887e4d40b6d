"""Batches of a detector or a classifier, taken apart."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor


def file_names(batch: Any) -> list[str]:
    """Return the names of the pictures in a batch, as far as it has them."""
    return list(dict.fromkeys(_file_names(batch)))


def _file_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(name := value.get("file_name"), str):
        yield name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _file_names(item)


def as_plain(value: Any) -> Any:
    """Return a batch as dicts, lists, numbers, texts and tensors, which ``torch.load`` reads with weights_only."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Instances):
        return {"image_size": list(value.image_size), **as_plain(value.get_fields())}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    content = getattr(value, "tensor", getattr(value, "polygons", None))  # detectron2's boxes and masks
    return repr(value) if content is None else as_plain(content)


INPUTS = ("image", "instances", "proposals", "label")
"""What models take to the device by themselves, each tensor with a wait of its own."""


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its :data:`INPUTS` on a GPU, copied from pinned memory without a wait; else as it is.

    Polygons stay, as detectron2 crops them on the host; and label maps, which are checked there.
    """
    if device.type != "cuda":
        return batch
    return map_inputs(batch, lambda tensor: _pinned(tensor).to(device, non_blocking=True))


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def map_inputs(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch in which ``change`` was applied to the tensors of its :data:`INPUTS`; the batch stays as it is."""
    if isinstance(batch, list | tuple):
        return [map_inputs(item, change) for item in batch]
    if not isinstance(batch, Mapping):
        return batch
    return {key: _mapped(value, change) if key in INPUTS else value for key, value in batch.items()}


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``change`` to a tensor, or to those of Instances, and of detectron2's boxes, masks and keypoints."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Instances):
        fields = {name: _mapped(field, change) for name, field in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if isinstance(getattr(value, "tensor", None), Tensor):
        moved = copy.copy(value)
        moved.tensor = change(value.tensor)
        return moved
    return value
