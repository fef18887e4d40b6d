"""Every private name that lesa_d2.compat uses still does what it is used for."""

import logging

import torch
import torch.nn.functional as F
import torchvision
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.events import EventStorage
from torch.utils.checkpoint import checkpoint

from lesa_d2.compat import (
    CPU_ATTENTION,
    DEFORM_CONV_BACKWARD,
    TorchDispatchMode,
    foreach_copy_,
    fresh_logger,
    is_inside_backward,
    keep_evaluations,
    name_in_scope,
    release_logger,
    tree_leaves,
    tree_map_only,
    version_of,
)


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


def test_a_dispatch_mode_sees_every_operator_of_both_passes():
    seen = []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    x, weight = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3)
    with Seeing():
        F.scaled_dot_product_attention(q, q, q).sum().backward()
        torchvision.ops.deform_conv2d(x, torch.zeros(1, 18, 3, 3), weight).sum().backward()
    assert {CPU_ATTENTION, DEFORM_CONV_BACKWARD, torch.ops.torchvision.deform_conv2d} <= set(seen)


def test_storages_can_be_followed_by_weak_references():
    """A storage is one Python object for all its tensors, and lives as long as any of them."""
    import weakref

    tensor = torch.zeros(4)
    freed = []
    weakref.finalize(tensor.untyped_storage(), freed.append, True)
    view = tensor[1:]
    assert view.untyped_storage() is tensor.untyped_storage()
    del tensor
    assert not freed
    del view
    assert freed


def test_trees():
    tree = {"a": [torch.ones(1), 2], "b": (torch.ones(2), None)}
    assert len(tree_leaves(tree)) == 4
    assert tree_map_only(torch.Tensor, len, tree) == {"a": [1, 2], "b": (2, None)}


def test_a_list_of_tensors_is_copied_and_has_new_versions():
    tensors = [torch.zeros(2), torch.zeros(3, dtype=torch.long)]
    before = [version_of(tensor) for tensor in tensors]
    foreach_copy_(tensors, [torch.ones(2), torch.tensor([1, 2, 3])])
    assert [tensor.tolist() for tensor in tensors] == [[1, 1], [1, 2, 3]]
    assert all(version_of(tensor) > old for tensor, old in zip(tensors, before, strict=True))


def test_scalars_have_the_name_of_their_scope():
    storage = EventStorage()
    with storage.name_scope("stage0"):
        storage.put_scalar("x", 1.0)
        assert name_in_scope(storage, "x") in storage.latest()
    assert name_in_scope(storage, "x") == "x"
