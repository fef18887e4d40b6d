"""Read checkpoints without unpickling objects, which could run code from the file."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..errors import CheckpointError, listed

WRAPPERS = ("model", "state_dict", "net")
"""Keys under which training scripts keep the weights."""


def read_checkpoint(path: str | os.PathLike, unsafe: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; its tensors by name stand under the key ``model``.

    Args:
        path: any address that detectron2's PathManager reads.  The file holds tensors by name, bare or under
            one of the keys ``model``, ``state_dict`` and ``net``.
        unsafe: also unpickle objects, which can run code from the file.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """
    loaded = weights = _load(_local_file(str(path)), unsafe)
    while isinstance(weights, Mapping):
        wrapped = [weights[key] for key in WRAPPERS if isinstance(weights.get(key), Mapping)]
        if not wrapped:
            break
        weights = wrapped[0]
    problem = _problem(weights)
    if problem:
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, bare or under one of the keys "
            f"{', '.join(WRAPPERS)}, got {problem}"
        )
    return {"model": weights} if weights is loaded else {**loaded, "model": weights}


def _local_file(path: str) -> str:
    try:
        file = PathManager.get_local_path(path)
    except CheckpointError:  # of lesa://, which says how to get the weights
        raise
    except Exception as error:  # what a download raises depends on its protocol
        raise CheckpointError(f"checkpoint {path!r} cannot be fetched: {error}") from error
    if not os.path.isfile(file):
        state = "is a folder" if os.path.isdir(file) else "does not exist"
        raise CheckpointError(f"checkpoint {path!r} {state}; give the path of a .pth file")
    return file


def _load(file: str, unsafe: bool) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # what a foreign file raises depends on what it holds
        message = f"{file} cannot be read ({type(error).__name__}): expected a file of plain tensors "
        message += "written by torch.save, complete and without pickled objects"
        if not unsafe:
            objects: list[str] = []
            with contextlib.suppress(Exception):  # it reads torch's present format alone
                objects = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            message += f", got {listed(objects)}" if objects else ""
            message += ". If it holds objects and you trust its maker, convert_checkpoint.py --unsafe "
            message += "unpickles them, which can run code from the file"
        raise CheckpointError(message) from error


def _problem(weights: Any) -> str:
    """Return what keeps ``weights`` from being tensors by name; "" when they are."""
    if not isinstance(weights, Mapping):
        return f"an object of type {type(weights).__name__}"
    strange = [
        f"{key!r} of type {type(value).__name__}"
        for key, value in weights.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    return listed(strange) if weights else "nothing"
