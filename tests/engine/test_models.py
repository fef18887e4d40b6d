"""Models of configs: memory layout, and compiled backbones."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from runs import TINY
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode

from lesa_d2.config import load_config
from lesa_d2.engine import build_model
from lesa_d2.engine.models import compile_backbone
from lesa_d2.layers import LESA, EvalBatchNorm2d

CONFIG = ["quickstart_lesa", [*TINY, "train.device=cpu"]]


class Layouts(TorchFunctionMode):
    """Note whether the maps that convolutions get are in channels_last."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.conv2d, torch.conv2d):
            x = args[0]
            is_clear = x.shape[1] > 1 and x.shape[2:].numel() > 1  # else both layouts are the same
            self.noted += [x.is_contiguous(memory_format=torch.channels_last)] if is_clear else []
        return func(*args, **(kwargs or {}))


def inputs(size=(64, 64)):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 4.0, 60.0, 30.0]])
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[:, 10:30, 20:40] = True
    objects = Instances(
        size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 2]), gt_masks=BitMasks(masks)
    )
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": image, "instances": objects} for _ in range(2)]


def losses_and_gradients(*overrides):
    model = build_model(load_config(CONFIG[0], [*CONFIG[1], *overrides])).train()
    torch.manual_seed(3)
    with EventStorage(), Layouts() as layouts:
        losses = model(inputs())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, layouts.noted


def test_channels_last_is_a_layout_of_all_maps_and_changes_no_result():
    losses, gradients, _ = losses_and_gradients()
    others, other_gradients, layouts = losses_and_gradients("train.channels_last=True")
    torch.testing.assert_close(others, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-3, atol=1e-4)
    assert len(layouts) > 40
    assert sum(not is_last for is_last in layouts) == 1  # the regions for masks, as RoIAlign pools them


def graphs_after(module, inputs):
    """Make steps; returns the number of graphs so far, without a break."""
    for x in inputs:
        out = module(x)
        sum(level.square().mean() for level in (out.values() if isinstance(out, dict) else [out])).backward()
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def compiled():
    """Compile a module in training; the graphs are those of any backend."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda module: module.train().compile(backend="eager")
    torch._dynamo.reset()


@pytest.mark.parametrize(("channels_last", "graphs"), [(False, 1), (True, 2)])
def test_a_compiled_backbone_is_one_graph_at_a_fixed_size(compiled, channels_last, graphs):
    """The second one copies the images."""
    options = [f"train.channels_last={channels_last}"]
    options += [f"model.backbone.bottom_up.{option}" for option in ("norm=EvalBN", "blocks=[1,1,1,1]")]
    backbone = build_model(load_config(CONFIG[0], [*CONFIG[1], *options])).backbone
    compiled(backbone)
    assert graphs_after(backbone, [torch.randn(2, 3, 64, 64) for _ in range(3)]) == graphs


def test_many_sizes_compile_a_bounded_number_of_graphs(compiled):
    """One for the size of the tables, one for a size that differs in both axes, one for each axis alone."""
    operator = LESA(8, 8, num_heads=2, feat_size=4, norm=EvalBatchNorm2d)
    compiled(operator)

    def after(*sizes):
        return graphs_after(operator, [torch.randn(2, 8, *size) for size in sizes])

    few = after((4, 4), (6, 8), (4, 6), (6, 4))
    assert few <= 5
    assert after((8, 6), (10, 8), (11, 13)) == few


def test_compile_takes_the_backbone(monkeypatch):
    model, seen = build_model(load_config(*CONFIG)), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: seen.append(self))
    compile_backbone(model)
    assert seen == [model.backbone]
