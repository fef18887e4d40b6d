"""The commands ``train`` and ``pretrain``: complete the config, check it, then train or evaluate."""

import argparse
import copy
import logging
from collections.abc import Sequence
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig

from ..checkpoint import checkpoint_files
from ..config.lazy import apply_overrides, config_path, override_keys, read_config
from ..config.record import Origin
from ..config.settings import check_settings
from ..errors import ConfigError
from .device import settle
from .evaluating import evaluate_only
from .folder import check_unused, explained, logging_to, make_folder
from .task import Task
from .training import train

logger = logging.getLogger("lesa_d2")


def run(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Train, or evaluate with ``--eval-only``; return the last evaluation's results.

    Args:
        args: arguments of ``lesa_d2.engine.argument_parser`` for this task.
        task: the kind of model and data.

    Raises:
        LesaError: something is wrong with config, data set or checkpoint; raised before training starts.
    """
    path = config_path(args.config_file)
    cfg = read_config(path)
    origin = Origin(path, copy.deepcopy(cfg))
    apply_overrides(cfg, args.opts)
    check_settings(cfg)
    task.check_kind(cfg)
    derive(cfg, task, origin.written, args)
    settle(cfg)
    folder = cfg.train.output_dir
    make_folder(folder, "train.output_dir")
    with explained(folder):
        if not (args.eval_only or args.resume or args.overwrite):
            check_unused(folder)
        with logging_to(folder):
            return _train_or_evaluate(cfg, task, origin, args)


def _train_or_evaluate(
    cfg: DictConfig, task: Task, origin: Origin, args: argparse.Namespace
) -> dict[str, Any]:
    task.check_data(cfg, args.eval_only)
    if comm.is_main_process():
        for note in task.notes:
            logger.info(note)
    if args.eval_only:
        is_typed = "train.init_checkpoint" in override_keys(args.opts)
        return evaluate_only(cfg, task, typed=cfg.train.init_checkpoint if is_typed else "")
    resumed = checkpoint_files(cfg.train.output_dir) if args.resume else []
    if args.resume and not resumed:
        if not args.overwrite:
            check_unused(cfg.train.output_dir)
        logger.warning("--resume: %s holds no checkpoint, so that training starts anew", cfg.train.output_dir)
    if cfg.train.get("report") and cfg.train.report.enabled and task.reporter and comm.is_main_process():
        logger.info("%s\n", task.reporter.report_data(cfg, args))
    return train(cfg, task, resume=resumed, origin=origin)


def derive(cfg: DictConfig, task: Task, written: DictConfig, args: argparse.Namespace) -> None:
    """Change a config, in place, to fit its data; the overrides are applied again after each step.

    Args:
        cfg: with the overrides of ``args`` applied.
        task: defines the steps.
        written: the content of the config file, without changes.
        args: the command line.
    """
    for step in task.derivations(written, args):
        step(cfg)
        task.notes += _apply_again(cfg, args.opts)
    task.notes = list(dict.fromkeys(task.notes))
    check_settings(cfg)


def _apply_again(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Apply overrides again, and return a line for each whose key no longer exists."""
    lost = []
    for override in overrides:
        try:
            apply_overrides(cfg, [override])
        except ConfigError:  # it was applied without an error before
            lost.append(f"{override} has no effect: the data of the command line replaced what it changes.")
    return lost
