"""Read checkpoints of every format without unpickling objects, which could run code from the file."""

import contextlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..errors import CheckpointError, listed
from .numpy_pickle import RefusedError, read_numpy_pickle
from .safetensors import is_safetensors, read_safetensors

WRAPPERS = ("model", "state_dict", "net", "blobs")
"""Keys under which training scripts keep the weights."""
HEURISTICS = "?matching_heuristics=True"
"""How addresses of detectron2 say that names of the file are to be matched by their ends."""
TORCH_ZIP, TORCH_OLD = b"PK", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of what torch.save writes, now and before torch 1.6."""
PICKLES = (b"\x80", b"(", b"}")


def read_checkpoint(path: str | os.PathLike, unsafe: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; its tensors by name stand under the key ``model``.

    The content of the file decides how it is read: as written by torch.save, as a safetensors file, or as a pickle
    of numpy arrays, which is what detectron2's and Detectron's .pkl files are.  As for detectron2, such a pickle
    has the ``__author__`` it names or else "Caffe2", and its names are matched by their ends
    (``matching_heuristics``) if it says so or is Caffe2's.

    Args:
        path: any address that detectron2's PathManager reads, also with ``?matching_heuristics=True`` behind it.
            The file holds tensors by name, bare or under one of the keys ``model``, ``state_dict``, ``net`` and
            ``blobs``.
        unsafe: also unpickle objects of a file that torch.save wrote, which can run code from the file.

    Raises:
        CheckpointError: there is no such file, it cannot be opened, it is damaged, or it holds something else.
    """
    path = str(path)
    address = path.removesuffix(HEURISTICS)
    try:
        loaded = weights = _load(_local_file(address), unsafe)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path!r} cannot be read: {error.strerror or error}") from error
    for _ in WRAPPERS:
        wrapped = [weights[key] for key in WRAPPERS if isinstance(weights, Mapping) and key in weights]
        wrapped = [value for value in wrapped if isinstance(value, Mapping)]
        if not wrapped:
            break
        weights = wrapped[0]
    problem = _problem(weights)
    if problem:
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, bare or under one of the keys "
            f"{', '.join(WRAPPERS)}, got {problem}"
        )
    content = {"model": weights} if weights is loaded else {**loaded, "model": weights}
    return content | ({"matching_heuristics": True} if address != path else {})


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
    with open(file, "rb") as content:
        start = content.read(16)
    if start.startswith((TORCH_ZIP, TORCH_OLD)):
        return _load_torch(file, unsafe)
    if is_safetensors(start):
        return _load_safetensors(file)
    if start.startswith(PICKLES):
        return _load_pickle(file)
    return _load_torch(file, unsafe)  # neither, which its error says


def _load_safetensors(file: str) -> dict[str, Tensor]:
    content = Path(file).read_bytes()
    try:
        return read_safetensors(content)
    except Exception as error:  # a damaged header can be any JSON
        raise CheckpointError(
            f"{file} is a damaged safetensors file ({type(error).__name__}): {error}"
        ) from error


def _load_pickle(file: str) -> Any:
    try:
        loaded = read_numpy_pickle(Path(file).read_bytes())
    except RefusedError as error:
        raise CheckpointError(
            f"{file} cannot be read: expected numpy arrays of numbers by name, as in detectron2's .pkl files, got "
            f"{error}. Nothing of it has run"
        ) from error
    if not isinstance(loaded, Mapping) or isinstance(loaded.get("model"), Mapping):
        return loaded
    wrapped = loaded.get("blobs")
    blobs = wrapped if isinstance(wrapped, Mapping) else loaded
    kept = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
    return {"model": kept, "__author__": "Caffe2", "matching_heuristics": True}


def _load_torch(file: str, unsafe: bool) -> Any:
    _check_sums(file)
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
            message += ". If it holds objects and you trust its maker, lesa convert --unsafe "
            message += "unpickles them, which can run code from the file"
        raise CheckpointError(message) from error


def _check_sums(file: str) -> None:
    """Compare the checksums that torch.save writes into its archives, which torch.load does not read.

    Raises:
        CheckpointError: the file has changed since it was written.
    """
    if not zipfile.is_zipfile(file):
        with open(file, "rb") as opened:
            if opened.read(len(TORCH_ZIP)) == TORCH_ZIP:
                raise CheckpointError(f"{file} is cut off: its end is missing; take another copy of it")
        return  # of torch before 1.6
    try:
        with zipfile.ZipFile(file) as archive:
            changed = archive.testzip()
    except Exception as error:  # what a damaged directory leads to depends on the damage
        raise CheckpointError(f"{file} is damaged: its directory cannot be read ({error})") from error
    if changed:
        raise CheckpointError(f"{file} is damaged: {changed} in it has changed since it was written")


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
