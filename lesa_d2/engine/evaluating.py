"""Evaluation of a model by the evaluator of its config, during training and by itself."""

import logging
from collections import OrderedDict
from typing import Any

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..data.loader import build_loader
from ..errors import ConfigError, parts_fit
from ..evaluation import build_evaluator, with_test_time_augmentation
from ..modeling.build import check_kind
from .models import last_checkpoint, load_evaluated
from .processes import wait_for_all
from .report import start_report
from .stopping import StopRequest
from .task import Reporter, Task

logger = logging.getLogger("lesa_d2")


def evaluate(
    cfg: DictConfig,
    model: nn.Module,
    reporter: Reporter | None = None,
    *,
    is_last: bool = True,
    request: StopRequest | None = None,
) -> OrderedDict:
    """Run the config's evaluator over its test loader; return results on the main process, an empty dict on others.

    Args:
        cfg: the settled config of the run.
        model: a model in any mode, which it keeps.
        reporter: writes the report of the evaluation if the config asks for one.
        is_last: no evaluation of the run follows.
        request: stops the evaluation, on all processes, between two batches.

    Raises:
        StoppedError: a process has got a signal.
        ConfigError: parts of the config do not fit together.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("Not evaluated: the config has no dataloader.evaluator")
        return OrderedDict()
    detector, loader = model, cfg.dataloader.test
    was_training = model.training
    if "tta" in cfg.train and cfg.train.tta.enabled:
        detector, loader = with_test_time_augmentation(cfg, model)
    evaluator = build_evaluator(cfg.dataloader.evaluator)
    request, batches = request or StopRequest(), build_loader(loader)
    check_kind("dataloader.test", batches, ("__iter__", "__len__"))

    def wait_and_check() -> None:
        wait_for_all()  # shares of the images take different times
        request.check()

    with parts_fit("evaluation", "model, dataloader.test and dataloader.evaluator"):
        results = inference_on_dataset(
            detector, request.watch(batches), evaluator, callbacks={"on_end": wait_and_check}
        )
    model.train(was_training)
    if comm.is_main_process():
        print_csv_format(results)
        if reporter is not None and "report" in cfg.train and cfg.train.report.enabled:
            text = reporter.report_evaluation(cfg, evaluator, is_last)
            logger.info("%s\n\nWritten to %s\n", text, cfg.train.output_dir)
    wait_for_all()  # the main process scores and reports alone
    return results


def evaluate_only(cfg: DictConfig, task: Task, typed: str = "") -> dict[str, Any]:
    """Evaluate a trained model with the weights that training evaluated: the average if the checkpoint has one.

    Args:
        cfg: the settled config of the model.
        task: the task of the config.
        typed: the checkpoint of the command line; without one, the last of ``train.output_dir`` is taken, or
            ``train.init_checkpoint`` if there is none.

    Raises:
        ConfigError: there is no checkpoint.
    """
    path = typed or last_checkpoint(cfg.train.output_dir) or cfg.train.init_checkpoint
    if not path:
        raise ConfigError(
            f"--eval-only needs weights: {cfg.train.output_dir} holds no checkpoint, and "
            "train.init_checkpoint was not given or is empty; give train.init_checkpoint=FILE.pth"
        )
    model, report = load_evaluated(cfg, path)
    if comm.is_main_process():
        logger.info("Start\n%s", start_report(cfg, model, report, task.describe(cfg)))
    return evaluate(cfg, model.requires_grad_(False), task.reporter)
