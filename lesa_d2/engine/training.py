"""A training run: model, optimizer, data, hooks and start weights."""

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import RunCheckpointer, WeightsWriter, checkpoint_files, unwrap
from ..config.lazy import parameters
from ..config.record import Origin, changed_since, save_config
from ..data.loader import build_loader
from ..errors import ConfigError, DatasetError, StoppedError, listed
from ..modeling.build import check_kind, instantiate_part
from .device import cudnn_benchmark, fuse_optimizer, precision_of
from .ema import Average, EMAHook, make_ema
from .evaluating import evaluate
from .folder import log_to_file, remove_run
from .hooks import Best, Evaluation, Progress, Saver
from .models import build_model, compile_backbone
from .processes import wait_for_all
from .report import start_report
from .start import load_start
from .stopping import StopHook, StopRequest
from .task import Task
from .trackers import Tracker, check_trackers, tracking
from .trainer import Trainer

AVERAGE = "model_ema_final"

logger = logging.getLogger("lesa_d2")


def train(
    cfg: DictConfig, task: Task, resume: Sequence[str] = (), origin: Origin | None = None
) -> dict[str, Any]:
    """Train to ``train.max_iter``, and return the results of the last evaluation.

    Args:
        cfg: the settled config of the run.
        task: the task of the config.
        resume: continue from the first of these checkpoints that can be read; none for a new run.
        origin: where the config comes from; needed to save a config that has no YAML form.
    """
    check_trackers(cfg)
    saved_config = copy.deepcopy(cfg)  # before objects are put into it
    seed_all_rng(cfg.train.seed + comm.get_rank())  # for data loaders without a seed
    trainer, ema = make_trainer(cfg)
    model = trainer.model
    checkpointer = RunCheckpointer(
        model, cfg.train.output_dir, trainer=trainer, **({"ema": ema} if ema else {})
    )
    request = StopRequest()
    saver = Saver(checkpointer, **cfg.train.checkpointer)
    trainer.register_hooks(make_hooks(cfg, task, trainer, saver, ema, request))
    loaded = checkpointer.resume(resume) if resume else load_start(cfg, checkpointer)
    if ema is not None and "ema" not in checkpointer.loaded:
        ema.module.load_state_dict(unwrap(model).state_dict())
    if resume and ema is None and comm.is_main_process():
        warn_of_old_average(Path(cfg.train.output_dir))
    first_iter = trainer.last_step + 1
    trainer.data_loader = make_train_loader(cfg, first_iter)
    with tracking(cfg, bool(resume)) as trackers:
        if comm.is_main_process():
            if not resume:
                remove_run(cfg.train.output_dir)  # an earlier one, where --overwrite allows it
            trainer.register_hooks([make_writers(cfg, task, trackers)])
            if resume:
                tell_other_settings(saved_config)
            save_config(saved_config, cfg.train.output_dir, origin)
            log_to_file(f"Environment\n{collect_env_info()}")
            report = start_report(cfg, unwrap(model), loaded, task.describe(cfg))
            logger.info("Start\n%s", report)
            if not resume and cfg.train.init_checkpoint:
                loaded.save(Path(cfg.train.output_dir) / "weights.txt")
        with request, cudnn_benchmark(cfg.train.cudnn_benchmark):
            try:
                trainer.train(first_iter, cfg.train.max_iter)
            except StoppedError as stop:
                stop.saved = "the main process saves the state"
                if comm.is_main_process():
                    step = saver.save()
                    stop.saved = f"step {step} of {cfg.train.max_iter} is saved in {cfg.train.output_dir}"
                for tracker in trackers:
                    tracker.end(stop)
                wait_for_all()  # the first process that ends has the others ended
                raise
    return trainer.last_results


def make_writers(cfg: DictConfig, task: Task, trackers: Sequence[Tracker]) -> hooks.PeriodicWriter:
    """Make the hook that writes the log: on the console, into files, and to the trackers."""
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    writers[0] = Progress(cfg.train.max_iter, task.later)
    return hooks.PeriodicWriter([*writers, *trackers], period=cfg.train.log_period)


def warn_of_old_average(folder: Path) -> None:
    """Warn where a run that averages nothing is continued in a folder with the average of earlier steps."""
    file = folder / f"{AVERAGE}.pth"
    if file.is_file():
        logger.warning(
            "%s is the average of earlier steps, and stays as it is: with train.ema.enabled=False nothing is averaged",
            file,
        )


def tell_other_settings(cfg: DictConfig) -> None:
    """Log which settings of a resumed run are others than before."""
    try:
        others = changed_since(cfg.train.output_dir, cfg)
    except ConfigError as error:
        logger.warning("--resume: which settings are others than before cannot be told: %s", error)
        return
    if others:
        told = listed([other if len(other) <= 120 else f"{other[:120]}…" for other in others], 12)
        logger.warning("--resume continues the run with other settings: %s", told)


def make_trainer(cfg: DictConfig) -> tuple[Trainer, Average | None]:
    """Build model, optimizer and average of a settled config, and the trainer of them, which has no data yet.

    Raises:
        ConfigError: the config does not describe one of them.
    """
    model = build_model(cfg)
    if not OmegaConf.is_dict(OmegaConf.select(cfg, "optimizer.params")):
        raise ConfigError(
            "the config's optimizer has no params, which describe how it takes those of the model"
        )
    fuse_optimizer(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate_part("optimizer", cfg.optimizer, ("step", "zero_grad", "param_groups"))
    ema = make_ema(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
    if cfg.train.compile:
        compile_backbone(model)
    model = distributed(model, cfg)
    trainer = Trainer(
        model,
        None,
        optimizer,
        seed=cfg.train.seed,
        accumulate=cfg.train.accumulate,
        precision=precision_of(cfg),
        clip_grad_norm=cfg.train.clip_grad_norm,
        skip_non_finite=cfg.train.non_finite.skip,
        output_dir=cfg.train.output_dir,
    )
    return trainer, ema


def make_train_loader(cfg: DictConfig, first_iter: int) -> Iterable[Any]:
    """Build the config's training loader, starting at ``first_iter`` if it supports that.

    Raises:
        ConfigError: ``train.accumulate`` is above 1, and the loader gives no micro-batches.
        DatasetError: no image has an object to learn from.
    """
    known = parameters(cfg.dataloader.train)
    if cfg.train.accumulate > 1 and "accumulate" not in known:
        raise ConfigError(
            f"train.accumulate={cfg.train.accumulate} needs a data loader that gives micro-batches: use "
            "lesa_d2.data.build_train_loader as dataloader.train, with accumulate='${train.accumulate}'"
        )
    if "first_iter" in known:
        cfg.dataloader.train.first_iter = first_iter
    elif first_iter:
        logger.warning("This data loader cannot continue where it was: the order of images starts anew.")
    try:
        loader = build_loader(cfg.dataloader.train)
    except AssertionError as error:  # detectron2 found no image with objects
        raise DatasetError(
            f"{error}: no training image has an object that is not a crowd; check the annotations, or, where "
            "the split is by seed, set another train.seed"
        ) from error
    check_kind("dataloader.train", loader, ("__iter__",))
    return loader


def make_hooks(
    cfg: DictConfig,
    task: Task,
    trainer: Trainer,
    saver: Saver,
    ema: Average | None,
    request: StopRequest,
) -> list:
    """Make the hooks of the run but that of the log; the average is updated before any hook saves or evaluates."""
    evaluated = ema.module if ema else unwrap(trainer.model)
    is_main = comm.is_main_process()
    best = Best(evaluated, cfg.train.output_dir, cfg.train.best_metric) if cfg.train.best_metric else None

    def evaluate_and_keep() -> dict[str, Any]:
        share_buffers(evaluated)
        if is_main and best is not None and not checkpoint_files(cfg.train.output_dir):
            saver.save()  # else --resume would find the best weights of a run that it cannot continue
        is_last = trainer.iter + 1 >= trainer.max_iter
        with cudnn_benchmark(False):  # images of many sizes
            trainer.last_results = evaluate(cfg, evaluated, task.reporter, is_last=is_last, request=request)
        return trainer.last_results

    made = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=build_scheduler(cfg))]
    if ema:
        made.append(EMAHook(ema, unwrap(trainer.model)))
    if is_main:
        made.append(saver)
    if is_main and ema:  # after the final checkpoint, without which it would not be continued
        writer = WeightsWriter(ema.module, cfg.train.output_dir)
        made.append(hooks.CallbackHook(after_train=lambda trainer: writer.save(AVERAGE)))
    made.append(Evaluation(cfg.train.eval_period, evaluate_and_keep, best))
    return [*made, StopHook(request)]


def build_scheduler(cfg: DictConfig) -> Any:
    """Build the schedule of the learning rate.

    Raises:
        ConfigError: the arguments in the config do not fit, or describe something else.
    """
    made = instantiate_part("lr_multiplier", cfg.lr_multiplier)
    if not isinstance(made, ParamScheduler):  # else one of torch, which makes steps
        check_kind("lr_multiplier", made, ("step",))
    return made


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of the main process, which are saved, to all; before, each has statistics of its own data."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def distributed(model: nn.Module, cfg: DictConfig) -> nn.Module:
    """Return the model as this process trains it: among several, as DistributedDataParallel with ``train.ddp``.

    Raises:
        ConfigError: its arguments do not fit.
    """
    options: dict[str, Any] = dict(OmegaConf.to_container(cfg.train.ddp))
    if cfg.train.device == "cpu":
        options["device_ids"] = None
    try:
        return create_ddp_model(model, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"DistributedDataParallel refuses train.ddp: {error}") from error
