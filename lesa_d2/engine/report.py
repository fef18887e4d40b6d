"""The short report at the start of a run, about what is most often wrong without a message."""

from collections.abc import Iterable, Iterator

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import nn

from ..checkpoint import LoadReport
from ..config.settings import changed_settings
from ..layers.attention import describe_backend
from .device import PRECISIONS, precision_of


def start_report(
    cfg: DictConfig, model: nn.Module, load: LoadReport, of_data: Iterable[tuple[str, str]]
) -> str:
    """Return a table of weights, batch, learning rate, data, channel order, parameters and changed settings.

    Args:
        cfg: the settled config of the run.
        model: the model of the run.
        load: the report of loading its weights.
        of_data: titles and texts of lines about the data, such as the classes.
    """
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    rows = [
        ("weights", load.summary()),
        ("batch", describe_batch(cfg)),
        ("learning rate", describe_rate(cfg)),
        ("precision", describe_precision(cfg)),
        *(("attention", text) for text in describe_attention(model, precision_of(cfg))),
        *of_data,
        ("channel order", OmegaConf.select(cfg, "model.input_format") or _mapper_format(cfg)),
        ("parameters", f"{total:,} ({trained:,} trained)"),
        ("iterations", f"{cfg.train.max_iter:,}"),
        ("device", f"{parameters[0].device} x {comm.get_world_size()} process(es)"),
        ("settings", ", ".join(changed_settings(cfg)) or "all at their defaults"),
    ]
    if OmegaConf.select(cfg, "train.tta.enabled"):
        rows.append(("evaluation", describe_tta(cfg)))
    return tabulate(rows, tablefmt="plain")


def _mapper_format(cfg: DictConfig) -> str:
    return OmegaConf.select(cfg, "dataloader.test.mapper.image_format") or "not given"


def describe_precision(cfg: DictConfig) -> str:
    """Return the name of the dtype, and the settings that change nothing but the speed."""
    extras = [name for name in ("channels_last", "compile") if cfg.train[name]]
    return ", ".join([precision_of(cfg), *extras])


def describe_attention(model: nn.Module, precision: str) -> Iterator[str]:
    """Yield a text for each way in which the attentions of a model are computed, with the stages."""
    device = next(model.parameters()).device
    stages: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if hasattr(module, "head_channels"):
            how = describe_backend(module.backend, device, PRECISIONS[precision], module.head_channels)
            stage = next((part for part in path.split(".") if part.startswith("res")), path.split(".")[0])
            stages.setdefault(how, []).append(stage)
    for how, names in stages.items():
        yield f"{', '.join(dict.fromkeys(names))}: {how}"


def describe_tta(cfg: DictConfig) -> str:
    """Return a text with the sizes of test-time augmentation."""
    scales = ", ".join(f"{scale:g}" for scale in cfg.train.tta.scales)
    return f"at {scales} times the size{', flipped too' if cfg.train.tta.flip else ''}, merged"


def describe_batch(cfg: DictConfig) -> str:
    """Return a text that says how the batch is divided over processes and micro-batches."""
    total, world, parts = _batch(cfg), comm.get_world_size(), cfg.train.accumulate
    if total is None:
        return "as the data loader gives it"
    return (
        f"{total} images a step = {world} process(es) x {parts} micro-batch(es) x {total // (world * parts)}"
    )


def _batch(cfg: DictConfig) -> int | None:
    return OmegaConf.select(cfg, "dataloader.train.total_batch_size")


def describe_rate(cfg: DictConfig) -> str:
    """Return the base learning rate, with a warning if it was chosen for another batch size."""
    rate, batch, reference = OmegaConf.select(cfg, "optimizer.lr"), _batch(cfg), cfg.train.reference_batch
    if rate is None:
        return "as the optimizer has it"
    if batch is None or reference in (None, batch):
        return f"{rate:g}"
    return (
        f"{rate:g}, chosen for a batch of {reference}, not {batch}: "
        f"linear scaling would give {rate * batch / reference:g} (train.scale_lr=True)"
    )
