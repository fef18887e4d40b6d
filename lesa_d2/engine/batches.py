"""Batches of a detector or a classifier, taken apart."""

from collections.abc import Iterator, Mapping
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
