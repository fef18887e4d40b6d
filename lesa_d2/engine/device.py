"""Settings of a config that depend on the machine: the device, and the dtype that it computes in."""

import re

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

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
    if cfg.train.scale_lr:
        batch = cfg.dataloader.train.total_batch_size
        cfg.optimizer.lr = cfg.optimizer.lr * batch / cfg.train.reference_batch
        cfg.train.reference_batch, cfg.train.scale_lr = batch, False  # the saved config is not scaled twice


def precision_of(cfg: DictConfig) -> str:
    """Return the name of the dtype that a settled config trains in."""
    return cfg.train.amp.dtype if cfg.train.amp.enabled else "float32"


def say(message: str) -> None:
    """Print a message on the main process only."""
    if comm.is_main_process():
        print(message)
