"""The short report at the start of a run: what most often goes wrong without anybody noticing."""

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ..checkpoint import LoadReport

SHOWN_CLASSES = 10


def start_report(cfg: DictConfig, model: nn.Module, load: LoadReport, classes: list[str]) -> str:
    """A table of weights, batch, learning rate, classes, channel order and parameters."""
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    rows = [
        ("weights", load.summary()),
        ("batch", describe_batch(cfg)),
        ("learning rate", describe_rate(cfg)),
        ("precision", describe_precision(cfg)),
        ("classes", describe_classes(classes)),
        ("channel order", OmegaConf.select(cfg, "model.input_format", default="not given")),
        ("parameters", f"{total:,} ({trained:,} trained)"),
        ("iterations", describe_iterations(cfg)),
        ("device", f"{parameters[0].device} x {comm.get_world_size()} process(es)"),
    ]
    if OmegaConf.select(cfg, "train.tta.enabled"):
        rows.append(("evaluation", describe_tta(cfg)))
    return tabulate(rows, tablefmt="plain")


def describe_precision(cfg: DictConfig) -> str:
    extras = [name for name in ("channels_last", "compile") if cfg.train[name]]
    return ", ".join([cfg.train.amp.dtype if cfg.train.amp.enabled else "float32", *extras])


def describe_tta(cfg: DictConfig) -> str:
    scales = ", ".join(f"{scale:g}" for scale in cfg.train.tta.scales)
    return f"at {scales} times the size{', flipped too' if cfg.train.tta.flip else ''}, merged"


def describe_iterations(cfg: DictConfig) -> str:
    epochs = cfg.train.get("epochs")
    return f"{cfg.train.max_iter:,}" + (f" ({epochs:g} epochs)" if epochs else "")


def describe_batch(cfg: DictConfig) -> str:
    total, world, parts = cfg.dataloader.train.total_batch_size, comm.get_world_size(), cfg.train.accumulate
    return (
        f"{total} images a step = {world} process(es) x {parts} micro-batch(es) x {total // (world * parts)}"
    )


def describe_rate(cfg: DictConfig) -> str:
    """The base learning rate, and a warning when it was chosen for another batch size."""
    rate, batch, reference = (
        cfg.optimizer.lr,
        cfg.dataloader.train.total_batch_size,
        cfg.train.reference_batch,
    )
    if batch == reference or cfg.train.scale_lr:
        return f"{rate:g}"
    return (
        f"{rate:g}, chosen for a batch of {reference}, not {batch}: "
        f"linear scaling would give {rate * batch / reference:g} (train.scale_lr=True)"
    )


def describe_classes(classes: list[str]) -> str:
    more = f", … ({len(classes)})" if len(classes) > SHOWN_CLASSES else ""
    return f"{len(classes)}: " + ", ".join(classes[:SHOWN_CLASSES]) + more
