"""Every private name that lesa_d2.compat uses still does what it is used for."""

import logging

import torch
from detectron2.evaluation import COCOEvaluator
from torch.utils.checkpoint import checkpoint

from lesa_d2.compat import fresh_logger, is_inside_backward, keep_evaluations, release_logger


def test_a_backward_pass_knows_itself():
    seen = []

    def run(x):
        seen.append(is_inside_backward())
        return x.sin().sin()

    x = torch.randn(3, requires_grad=True)
    for reentrant in (False, True):
        out = checkpoint(run, x, use_reentrant=reentrant).sum()
        assert seen.pop() is False
        out.backward()
        assert seen.pop() is True
    assert not is_inside_backward()


def test_evaluations_are_kept():
    evaluator, kept = COCOEvaluator.__new__(COCOEvaluator), []
    evaluator._logger = logging.getLogger("test")
    keep_evaluations(evaluator, lambda kind, evaluation: kept.append((kind, evaluation)))
    # as COCOEvaluator calls it where there is no detection
    numbers = evaluator._derive_coco_results(None, "bbox", class_names=["a"])
    assert kept == [("bbox", None)]
    assert "AP50" in numbers


def test_a_logger_writes_into_its_own_folder_alone(tmp_path):
    host = logging.NullHandler()
    logging.getLogger("lesa_test").addHandler(host)
    for name in ("first", "second"):
        fresh_logger("lesa_test", str(tmp_path / name), 0).info("in %s", name)
    logger = logging.getLogger("lesa_test")
    for handler in logger.handlers:
        handler.flush()
    release_logger("lesa_test")
    assert "in second" in (tmp_path / "second" / "log.txt").read_text()
    assert "in second" not in (tmp_path / "first" / "log.txt").read_text()
    assert logger.handlers == [host]
    logger.removeHandler(host)
