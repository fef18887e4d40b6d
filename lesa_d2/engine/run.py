"""What the training scripts do, whatever the task: set up, report, train, evaluate."""

import argparse
import copy
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..checkpoint import (
    LoadReport,
    RunCheckpointer,
    last_checkpoint,
    load_evaluated_weights,
    load_weights,
    unwrap,
)
from ..config.lazy import is_given, load_config, parameters
from ..errors import CheckpointError, ConfigError, DatasetError, LesaError
from ..evaluation import with_test_time_augmentation
from ..modeling.build import instantiate_model
from .classification import Classification
from .detection import Detection
from .ema import EMAHook, make_ema
from .hooks import BestCheckpointer
from .launch import argument_parser, launch
from .report import start_report
from .task import Task
from .trainer import Trainer
from .values import check_values

logger = logging.getLogger("lesa_d2")


def run_command_line(task: Task, arguments: Sequence[str] | None = None) -> int:
    """Do what the ``arguments`` (default: the program's) ask for; returns the exit status."""
    return launch(partial(main, task=task), argument_parser(task).parse_args(arguments))


def task_of(cfg: DictConfig) -> Task:
    """What the config's model is for: detection where it has RoI heads, else classification."""
    return Classification() if OmegaConf.select(cfg, "model.roi_heads") is None else Detection()


def main(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Train, or evaluate with ``--eval-only``; returns the last evaluation's results.

    Args:
        args: of :func:`argument_parser` for this task.
        task: what is trained, on which kind of data.

    Raises:
        LesaError: anything wrong with config, data set or checkpoint, before training starts.
    """
    cfg = load_config(args.config_file, args.opts)
    check_values(cfg, task.rules)
    task.use_data(cfg, args)
    prepare(cfg)
    set_up_logging(cfg.train.output_dir)
    classes = cfg.train.class_names = task.check_data(cfg, args.eval_only)
    if args.eval_only:
        return evaluate_only(cfg, classes, given=args.opts)
    task.before_training(cfg, args)
    return train(cfg, classes, resume=args.resume)


def prepare(cfg: DictConfig) -> None:
    """Settle what the config leaves to the machine: the device, and the scaled learning rate."""
    if cfg.train.device.startswith("cuda") and not torch.cuda.is_available():
        if comm.is_main_process():
            print("No GPU found: running on the CPU (train.device=cpu).")
        cfg.train.device = "cpu"
    if cfg.train.scale_lr:
        batch = cfg.dataloader.train.total_batch_size
        cfg.optimizer.lr = cfg.optimizer.lr * batch / cfg.train.reference_batch
        cfg.train.reference_batch, cfg.train.scale_lr = batch, False  # the saved config is not scaled twice


def set_up_logging(output_dir: str) -> None:
    """Log to the console and to ``log.txt`` in the output folder, which is made."""
    make_folder(output_dir, "train.output_dir")
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_unexpected)
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "lesa_d2"):
        logging.getLogger(name).handlers.clear()  # of an earlier run of this process
        setup_logger(output_dir, distributed_rank=comm.get_rank(), name=name)


def make_folder(folder: str | Path, name: str) -> Path:
    """Make ``folder``, which the user gave as ``name``; ConfigError where that cannot be."""
    try:
        PathManager.mkdirs(str(folder))
    except OSError as error:
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: {error}") from error
    if not PathManager.isdir(str(folder)):  # a file of that name raises nothing
        raise ConfigError(f"{name}={str(folder)!r} cannot be made: it is a file")
    return Path(folder)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """A user's error is printed once, as its message; detectron2 would log its traceback before."""
    return not (record.exc_info and isinstance(record.exc_info[1], LesaError))


def build_model(cfg: DictConfig) -> nn.Module:
    """The model on its device; its initial values are a function of ``train.seed``.

    Raises:
        ConfigError: the config's arguments do not make a model.
    """
    torch.manual_seed(cfg.train.seed)
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    model: Any = instantiate_model(cfg.model)  # stubs of ``to`` lack the memory format beside the device
    return model.to(cfg.train.device, memory_format=layout)


def compile_backbone(model: nn.Module) -> None:
    """Have torch.compile translate the backbone, in place; the names of weights stay.

    Raises:
        ConfigError: no backbone, or on the CPU no C++ compiler.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError("train.compile=True concerns the model's backbone, and this model has none")
    compiler = os.getenv("CXX", "g++")
    if next(backbone.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile=True needs a C++ compiler on the CPU, and there is no {compiler!r}; install one, "
            "name it in CXX, or leave train.compile=False"
        )
    backbone.compile()


def train(cfg: DictConfig, classes: list[str], resume: bool = False) -> dict[str, Any]:
    """Train to ``train.max_iter``; with ``resume`` from the last checkpoint of ``train.output_dir``."""
    saved_config = copy.deepcopy(cfg)  # before objects get into it
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    ema = make_ema(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
    if cfg.train.compile:
        compile_backbone(model)
    model = create_ddp_model(model, **ddp_options(cfg))
    trainer = Trainer(
        model,
        None,
        optimizer,
        seed=cfg.train.seed,
        accumulate=cfg.train.accumulate,
        precision=cfg.train.amp.dtype if cfg.train.amp.enabled else "float32",
        clip_grad_norm=cfg.train.clip_grad_norm,
    )
    checkpointer = RunCheckpointer(
        model, cfg.train.output_dir, trainer=trainer, **({"ema": ema} if ema else {})
    )
    trainer.register_hooks(make_hooks(cfg, trainer, checkpointer, ema))
    report = load_start(cfg, checkpointer, resume)
    first_iter = trainer.iter + 1 if resume else 0
    trainer.data_loader = make_train_loader(cfg, first_iter)
    if comm.is_main_process():
        LazyConfig.save(saved_config, str(Path(cfg.train.output_dir) / "config.yaml"))
        logger.info("Environment\n%s", collect_env_info())
        logger.info("Start\n%s", start_report(cfg, unwrap(model), report, classes))
        if not resume and cfg.train.init_checkpoint:
            report.save(Path(cfg.train.output_dir) / "weights.txt")
    trainer.train(first_iter, cfg.train.max_iter)
    return trainer.last_results


def load_start(cfg: DictConfig, checkpointer: RunCheckpointer, resume: bool) -> LoadReport:
    """Load what the run starts from, or continues, and report it."""
    if resume:
        if not checkpointer.has_checkpoint():
            raise ConfigError(
                f"--resume: {cfg.train.output_dir} holds no checkpoint; start without --resume, or set "
                "train.output_dir to the folder of the run to continue"
            )
        return checkpointer.resume()
    if cfg.train.init_checkpoint:
        check = LoadReport.check_partial_start if cfg.train.init_partial else LoadReport.check_start
        return load_weights(checkpointer.model, cfg.train.init_checkpoint, start=True, check=check)
    return LoadReport()


def make_train_loader(cfg: DictConfig, first_iter: int) -> Iterable[list[dict]]:
    """The config's training loader, continuing at ``first_iter`` if it is one that can."""
    if "first_iter" in parameters(cfg.dataloader.train):
        cfg.dataloader.train.first_iter = first_iter
    elif first_iter:
        logger.warning("This data loader cannot continue where it was: the order of images starts anew.")
    try:
        return instantiate(cfg.dataloader.train)
    except AssertionError as error:  # detectron2 found no image with objects
        raise DatasetError(
            f"{error}: no training image has an object that is not a crowd; check the annotations, or, where "
            "the split is by seed, set another train.seed"
        ) from error


def evaluate_only(cfg: DictConfig, classes: list[str], given: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a trained model.

    Its weights are those that training evaluated: the average where the checkpoint holds one.  The checkpoint
    is ``train.init_checkpoint`` when it is among the ``given`` overrides (a config's own value is what
    training starts from), else the last checkpoint of ``train.output_dir``.
    """
    if is_given("train.init_checkpoint", given):
        path = cfg.train.init_checkpoint
    else:
        path = last_checkpoint(cfg.train.output_dir)
    if not path:
        raise ConfigError(
            f"--eval-only needs weights: {cfg.train.output_dir} holds no checkpoint, and "
            "train.init_checkpoint was not given or is empty; give train.init_checkpoint=FILE.pth"
        )
    model, report = load_evaluated(cfg, path)
    if comm.is_main_process():
        logger.info("Start\n%s", start_report(cfg, model, report, classes))
    return evaluate(cfg, model)


def load_evaluated(cfg: DictConfig, path: str) -> tuple[nn.Module, LoadReport]:
    """The model that training evaluated: the averaged weights where the checkpoint holds them."""
    model = build_model(cfg)
    report = load_evaluated_weights(model, path)
    return model.eval(), report


def load_trained(output_dir: str | Path) -> tuple[DictConfig, nn.Module]:
    """Config and model, in eval mode, of a finished run: its ``config.yaml`` and last checkpoint.

    Raises:
        LesaError: one of the two is missing, or they do not belong together.
    """
    cfg = load_config(str(Path(output_dir) / "config.yaml"))
    prepare(cfg)  # a run on a GPU may be looked at without one
    path = last_checkpoint(output_dir)
    if not path:
        raise CheckpointError(f"{output_dir} holds no checkpoint: it is not the folder of a run")
    return cfg, load_evaluated(cfg, path)[0]


def evaluate(cfg: DictConfig, model: nn.Module) -> OrderedDict:
    """Run the config's evaluator over its test loader; results on the main process, else empty."""
    was_training = model.training
    detector, loader = model, cfg.dataloader.test
    if OmegaConf.select(cfg, "train.tta.enabled"):
        detector, loader = with_test_time_augmentation(cfg, model)
    evaluator = instantiate(cfg.dataloader.evaluator)
    with task_of(cfg).reporting(cfg, model, evaluator):
        results = inference_on_dataset(detector, instantiate(loader), evaluator)
    model.train(was_training)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def make_hooks(
    cfg: DictConfig, trainer: Trainer, checkpointer: RunCheckpointer, ema: AveragedModel | None
) -> list:
    """detectron2's hooks; the average is updated before anything saves or evaluates."""
    evaluated = ema.module if ema else unwrap(trainer.model)
    is_main = comm.is_main_process()

    def evaluate_and_keep() -> dict[str, Any]:
        share_buffers(evaluated)
        trainer.last_results = evaluate(cfg, evaluated)
        return trainer.last_results

    try:
        scheduler = instantiate(cfg.lr_multiplier)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"the config's lr_multiplier cannot be built: {error}") from error
    found = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=scheduler)]
    if ema:
        found.append(EMAHook(ema, unwrap(trainer.model), cfg.train.output_dir))
    if is_main:
        found.append(hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
    found.append(hooks.EvalHook(cfg.train.eval_period, evaluate_and_keep))
    if is_main:
        found.append(
            BestCheckpointer(cfg.train.eval_period, evaluated, cfg.train.output_dir, cfg.train.best_metric)
        )
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        found.append(hooks.PeriodicWriter(writers, period=cfg.train.log_period))
    return found


def share_buffers(model: nn.Module) -> None:
    """Give every process the main one's buffers, which are saved: each saw statistics of its own data."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def ddp_options(cfg: DictConfig) -> dict[str, Any]:
    options = OmegaConf.to_container(cfg.train.ddp)
    if cfg.train.device == "cpu":
        options["device_ids"] = None
    return options
