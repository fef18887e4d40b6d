"""What depends on the machine: the device, the dtype that it computes in, and how its libraries are used."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from ..config.lazy import target
from ..errors import ConfigError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usable_device(device: str) -> str:
    """Return ``device``; if there is no GPU, print a message and return the CPU.

    Raises:
        ConfigError: ``device`` is not the name of a device, or this machine has fewer GPUs.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        say("No GPU found: running on the CPU (train.device=cpu).")
        return "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} is not there: this machine has {torch.cuda.device_count()} GPU(s)"
        )
    return device


def device_for(configured: str, asked: str | None) -> str:
    """Return the device that is asked for; without one, the configured device, or the CPU where that is not there.

    Raises:
        ConfigError: one of them is not the name of a device, or the one that is asked for is not there.
    """
    if asked is not None and asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device {asked!r} was asked for, and PyTorch finds no GPU here; leave the device out, or give cpu. lesa "
            "doctor says which PyTorch is installed"
        )
    return usable_device(configured if asked is None else asked)


def settle(cfg: DictConfig) -> None:
    """Set, in place, what depends on the machine: device, precision, and the scaled learning rate."""
    cfg.train.device = usable_device(cfg.train.device)
    if cfg.train.amp.enabled and cfg.train.amp.dtype is None:
        on_gpu = cfg.train.device != "cpu"
        if not on_gpu:
            say(
                "Mixed precision in float16 needs a GPU: computing in float32 (or set train.amp.dtype=bfloat16)."
            )
        cfg.train.amp.dtype = "float16" if on_gpu else "float32"
    if cfg.train.tf32:
        torch.set_float32_matmul_precision("high")
    if cfg.train.scale_lr:
        batch = cfg.dataloader.train.total_batch_size
        cfg.optimizer.lr = cfg.optimizer.lr * batch / cfg.train.reference_batch
        cfg.train.reference_batch, cfg.train.scale_lr = batch, False  # the saved config is not scaled twice


FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that update all parameters in one launch on a GPU where they are made with ``fused=True``."""
WAYS = ("fused", "foreach")
"""Arguments of optimizers that say how they compute, not what; they depend on the machine."""


def fuse_optimizer(cfg: DictConfig) -> None:
    """Set ``optimizer.fused``, in place, where training is on a GPU and the config does not say how to compute."""
    kind, chosen = target(cfg.optimizer), {*WAYS, "differentiable"}
    if not (isinstance(kind, type) and issubclass(kind, FUSED) and cfg.train.device.startswith("cuda")):
        return
    if "fused" in inspect.signature(kind).parameters and not chosen & set(cfg.optimizer):
        cfg.optimizer.fused = True


def keep_ways(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer that may be of another machine with :data:`WAYS` of this optimizer.

    Where to keep the number of steps depends on them.  It is a hook of optimizers for the loading of a state.
    """
    if len(state["param_groups"]) != len(optimizer.param_groups):
        return state  # which is refused
    groups = [
        {**group, **{way: own[way] for way in WAYS if way in own and way in group}}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}


@contextmanager
def cudnn_benchmark(is_on: bool) -> Iterator[None]:
    """Have cuDNN try its algorithms for each size of a convolution, or not, while open."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def precision_of(cfg: DictConfig) -> str:
    """Return the name of the dtype that a settled config trains in."""
    return cfg.train.amp.dtype if cfg.train.amp.enabled else "float32"


def say(message: str) -> None:
    """Print a message on the main process only."""
    if comm.is_main_process():
        print(message)
