"""The reports of a run, written when the engine asks for them."""

import argparse

import detectron2.data.transforms as T
from detectron2.config import instantiate
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf

from ...data import open_folder
from ...engine import dataset_names
from ...evaluation import CocoEvaluator
from .data_report import write_data_report
from .detection_report import write_detection_report


class DetectionReports:
    """Write the reports about data and evaluation of boxes and masks into the folder of a run."""

    def report_data(self, cfg: DictConfig, args: argparse.Namespace) -> str:
        """Write ``data_report.md`` and ``data_samples.png``; return the report's text."""
        leaves_out = args.dataset and args.drop_invalid
        return write_data_report(
            cfg.train.output_dir,
            dataset_names(cfg.dataloader.train),
            dataset_names(cfg.dataloader.test),
            left_out=open_folder(args.dataset).problems() if leaves_out else (),
            seen=seen_size(cfg),
        )

    def report_evaluation(self, cfg: DictConfig, evaluator: DatasetEvaluator, is_last: bool) -> str:
        """Write ``evaluation.md``, and its pictures at the last evaluation or if asked; return the report's text."""
        assert isinstance(evaluator, CocoEvaluator)  # guaranteed by the check of the data
        return write_detection_report(
            cfg.train.output_dir,
            evaluator,
            score_threshold=OmegaConf.select(cfg, "train.report.score_threshold"),
            pictures=is_last or OmegaConf.select(cfg, "train.report.pictures") == "every",
        )


def seen_size(cfg: DictConfig) -> tuple[int, int] | None:
    """Return (height, width) in pixels of the images for testing, if all are resized to the same size."""
    resizings = [instantiate(a) for a in cfg.dataloader.test.mapper.augmentations]
    if len(resizings) == 1 and isinstance(resizings[0], T.Resize):
        height, width = resizings[0].shape
        return height, width
    return None
