"""Checks of what the user gives: a config with overrides, a data set, a checkpoint.

torch and detectron2 are imported inside the checks: where they are missing, the doctor has to say so.
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

from ...errors import CheckpointError, listed
from .findings import Finding, checked

WRONG = "are wrong"


class Inputs:
    """Hold the checks of one command line; later checks use what earlier ones have built.

    Args:
        config_file: of either kind, or a name of the model zoo.
        dataset: a COCO-format folder, or with a classifier's config ``train/CLASS`` and ``val/CLASS``.
        checkpoint: anything that PathManager reads.
        overrides: ``key=value`` of the config.
        gpu: train some steps on the config's device, and check the attention there.
    """

    def __init__(
        self,
        config_file: str = "",
        dataset: str = "",
        checkpoint: str = "",
        overrides: Sequence[str] = (),
        gpu: bool = False,
    ) -> None:
        self.config_file, self.dataset, self.checkpoint = config_file, dataset, checkpoint
        self.overrides, self.gpu = list(overrides), gpu
        self.cfg: Any = None
        self.model: Any = None

    def check(self) -> list[Finding]:
        """Return the findings of every check that the arguments allow, in order; no check raises an error."""
        findings: list[Finding] = []
        if self.config_file:
            findings += checked("config", self._load)
        elif self.overrides:
            findings.append(
                Finding("config", "none", f"--config-file: {self.overrides[0]!r} overrides a config")
            )
        if self.dataset:
            findings += checked("data set", self._check_dataset)
        if self.cfg is not None:
            findings += checked("config values", self._check_values, WRONG)
        if self.cfg is not None and findings[-1].state != WRONG:  # the other checks use these values
            if not any(finding.name == "data set" and finding.fix for finding in findings):
                findings += checked("data of the config", self._check_data)
            findings += checked("model", self._build, "cannot be built")
            if not self.checkpoint:
                findings += checked("start", self._check_start, "is missing")
        if self.checkpoint:
            findings += checked("checkpoint", self._check_checkpoint)
        if self.gpu:
            findings += checked("gpu", lambda: self._check_gpu(findings))
        return findings

    @property
    def is_yacs(self) -> bool:
        """Tell whether the config is one of yacs."""
        from detectron2.config import CfgNode

        return isinstance(self.cfg, CfgNode)

    @property
    def is_detector(self) -> bool:
        """Tell whether the config, as far as there is one, is for detectron2's records."""
        return self.cfg is None or self.is_yacs or self.cfg.train.task == "detection"

    def _load(self) -> list[Finding]:
        from ...config import load_any_config
        from ...config.lazy import config_path

        if (path := config_path(self.config_file)).endswith(".py"):
            print(f"{path} is a program, and is run now to be checked.", flush=True)
        self.cfg = load_any_config(self.config_file, self.overrides)
        kind = "yacs" if self.is_yacs else "LazyConfig"
        return [Finding("config", f"{self.config_file} loads ({kind})")]

    def _check_dataset(self) -> list[Finding]:
        from ...data import image_folder, open_folder
        from ...data.images import describe_images

        if not self.is_detector:
            parts = {split: image_folder(self.dataset, split) for split in ("train", "val")}
            counts = ", ".join(f"{split} {describe_images(part)}" for split, part in parts.items())
            classes: Sequence[str] = parts["train"].classes
            return [
                Finding(
                    "data set", f"{len(classes)} classes of pictures: {listed(classes)}; pictures: {counts}"
                )
            ]
        folder = open_folder(self.dataset)
        folder.check()
        classes = folder.classes
        labels = "boxes and masks" if folder.has_masks else "boxes without masks"
        found = [f"{labels} of {len(classes)} classes: {listed(classes)}", *folder.description()]
        return [Finding("data set", state) for state in [*found, *folder.remarks()]]

    def _check_values(self) -> list[Finding]:
        if self.is_yacs:
            return []  # yacs checks types as it merges
        from ...config.settings import check_settings

        check_settings(self.cfg)
        return [Finding("config values", "in range")]

    def _check_data(self) -> list[Finding]:
        """Check the data sets that training with these arguments reads."""
        if self.is_yacs:
            return self._check_yacs_data()
        from ...engine import task_of
        from ...engine.run import derive

        folder = self.dataset or None
        if folder is None and self._is_generated():
            return [Finding("data of the config", "is generated when training starts")]
        # the folder has been checked already, and what is wrong with it is a finding of its own
        args = argparse.Namespace(
            dataset=folder, data=folder, drop_invalid=folder is not None, eval_only=False, opts=self.overrides
        )
        task = task_of(self.cfg)()
        derive(self.cfg, task, copy.deepcopy(self.cfg), args)
        task.check_data(self.cfg, eval_only=False)
        classes = self.cfg.train.class_names or self.cfg.train.get("stuff_names") or []
        return [Finding("data of the config", f"is there: {len(classes)} classes, as the model")]

    def _is_generated(self) -> bool:
        """Tell whether the pictures of the config are generated; the doctor leaves that to training."""
        from omegaconf import OmegaConf

        from ...config.lazy import target
        from ...data import shape_images, shapes_split

        key = "dataloader.train.dataset.names" if self.is_detector else "dataloader.train.dataset"
        return target(OmegaConf.select(self.cfg, key)) in (shape_images, shapes_split)

    def _check_yacs_data(self) -> list[Finding]:
        from omegaconf import OmegaConf

        from ...engine.detection import check_datasets

        names = {"train": list(self.cfg.DATASETS.TRAIN), "test": list(self.cfg.DATASETS.TEST)}
        loaders = {part: {"dataset": {"names": given or names["train"]}} for part, given in names.items()}
        heads = {"num_classes": self.cfg.MODEL.ROI_HEADS.NUM_CLASSES}
        check_datasets(OmegaConf.create({"dataloader": loaders, "model": {"roi_heads": heads}}))
        return [Finding("data of the config", f"is there: {heads['num_classes']} classes, as the model")]

    def _check_gpu(self, findings: Sequence[Finding]) -> list[Finding]:
        from .gpu import check_gpu

        if self.cfg is None or self.is_yacs:
            return [Finding("gpu", "not checked", "--gpu needs --config-file with a LazyConfig")]
        if any(finding.fix for finding in findings):
            return [Finding("gpu", "not checked", "fix what is wrong above first")]
        return check_gpu(self.cfg)

    def _build(self) -> list[Finding]:
        """Build the model on the meta device, which needs no memory and no initial values."""
        import torch

        from ...engine import build_model
        from ...modeling.build import build_yacs_model

        cfg = copy.deepcopy(self.cfg)
        with torch.device("meta"):
            if self.is_yacs:
                cfg.MODEL.DEVICE = "meta"
                self.model = build_yacs_model(cfg)
            else:
                cfg.train.device = "meta"
                self.model = build_model(cfg)
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return [Finding("model", f"{type(self.model).__name__} builds, {count:,} parameters")]

    def _check_start(self) -> list[Finding]:
        """Check the weights that training starts from; nothing is downloaded."""
        path = self.cfg.MODEL.WEIGHTS if self.is_yacs else self.cfg.train.init_checkpoint
        if not path:
            return [Finding("start", "from scratch")]
        from detectron2.utils.file_io import PathManager

        from ...checkpoint.reading import HEURISTICS
        from ...weights import PREFIX, TORCHVISION

        path = path.removesuffix(HEURISTICS)
        if "://" in path and not path.startswith((PREFIX, TORCHVISION)):
            return [Finding("start", f"{path} is fetched when training starts")]
        if not PathManager.isfile(path):
            PathManager.get_local_path(path)  # for our own weights, its error says how to get them
            raise CheckpointError(f"checkpoint {path!r} does not exist; give the path of a .pth file")
        return [Finding("start", f"{path} can be had")]

    def _check_checkpoint(self) -> list[Finding]:
        from ...checkpoint import KINDS, kind_of_file

        kind = kind_of_file(self.checkpoint)
        if not kind:
            state = "weights of none of the known kinds"
            expected = ", ".join(KINDS.values())
            return [Finding("checkpoint", state, f"{self.checkpoint}: expected one of these: {expected}")]
        findings = [Finding("checkpoint", f"{self.checkpoint} is {KINDS[kind]}")]
        if self.model is not None:
            findings += checked("checkpoint and model", self._fit, "do not fit")
        return findings

    def _fit(self) -> list[Finding]:
        """Check that the checkpoint is one of the model, or that the model can start from it."""
        from ...checkpoint import LoadReport, compare_weights

        name, reason = "checkpoint and model", ""
        for verdict, is_start in (("the model's own", False), ("can start the model", True)):
            report = compare_weights(self.model, self.checkpoint, start=is_start)
            try:
                (LoadReport.check_start if is_start else LoadReport.check_complete)(report)
            except CheckpointError as error:
                reason = str(error)
            else:
                return [Finding(name, f"{verdict}: {report.summary()}")]
        return [Finding(name, f"{report.share():.1%} of the model fits", reason)]
