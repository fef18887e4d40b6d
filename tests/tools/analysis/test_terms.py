import copy
import json
import weakref
from functools import partial

import cv2
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lesa_d2.errors import LesaError
from lesa_d2.layers import LESA, OPERATORS, SelfAttention, SlotOperator, definition
from lesa_d2.modeling import build_lesa_resnet
from lesa_d2.tools.analysis import Accuracy, TermReport, inspect_terms, plot_terms, without_own_position
from lesa_d2.tools.analysis.probes import find_layers, observing
from lesa_d2.tools.analysis.terms import LayerTerms, Terms

LABELS = ["res4.1", "res5.0"]


def make(operator="lesa", num_classes=None, **options):
    tiny = dict(blocks=(1, 1, 2, 1), base_channels=8, stem_channels=8, num_heads=2, image_size=64)
    model = build_lesa_resnet(operator, num_classes=num_classes, **{**tiny, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # norms that do something
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def batches():
    """Three images of two sizes."""
    return [torch.randn(2, 3, 64, 64), torch.randn(1, 3, 48, 80)]


def materialised(model, images):
    """Every map that the definition makes of single images: per layer and image, softmax and terms."""
    found = {name: [] for name, _ in find_modules(model)}

    def define(name, operator, args, output):
        x, term = args[0], operator.binary
        q, k, _ = definition.project(term, x)
        maps = {"weights": definition.logits(term, q, k, (x.shape[2], x.shape[3])).softmax(-1)}
        maps["binary"] = definition.binary(term, x)
        if hasattr(operator, "unary"):
            maps["unary"] = definition.unary(operator.unary, x)
        if hasattr(operator, "gate"):
            maps["gate"] = definition.gate(operator.gate, maps["unary"], maps["binary"])
        found[name].append({key: value.double() for key, value in maps.items()})

    handles = [m.register_forward_hook(partial(define, name)) for name, m in find_modules(model)]
    with torch.no_grad():
        for image in images:
            model(image)
    for handle in handles:
        handle.remove()
    return found


def find_modules(model):
    return [(name, m) for name, m in model.named_modules() if type(m) in OPERATORS.values()]


def expected_terms(maps):
    """The report's numbers of one image."""
    weights = maps["weights"]
    own = weights.diagonal(dim1=-2, dim2=-1)
    expected = {
        "own": own.mean(),
        "rest": (weights.sum(-1) - own).mean(),
        "even": torch.tensor(1 / weights.shape[-1]),
        "binary_size": maps["binary"].abs().mean(),
    }
    if "unary" in maps:
        expected["unary_size"] = maps["unary"].abs().mean()
    if "gate" in maps:
        gate = maps["gate"]
        expected["binary_size"] = (gate * maps["binary"]).abs().mean()
        expected["unary_share"], expected["binary_share"] = (
            (1 / (1 + gate)).mean(),
            (gate / (1 + gate)).mean(),
        )
    return {name: float(value) for name, value in expected.items()}


@pytest.mark.parametrize("operator", ["lesa", "static_lesa", "self_attention"])
@pytest.mark.parametrize("num_classes", [None, 3], ids=["decomposed", "flattened"])
def test_agrees_with_materialised_maps(operator, num_classes):
    model = make(operator, num_classes)
    given = batches()
    report = inspect_terms(model, given)
    images = [image[None] for batch in given for image in batch]
    maps = materialised(model, images)
    assert report.images == 3
    assert [layer.label for layer in report.layers] == LABELS
    assert [layer.sizes for layer in report.layers] == [[(3, 5), (4, 4)]] * 2
    for layer in report.layers:
        per_image = [expected_terms(found) for found in maps[layer.name]]
        assert len(per_image) == 3
        got = {name: value for name, value in vars(layer.terms).items() if value is not None}
        wanted = {name: sum(x[name] for x in per_image) / 3 for name in per_image[0]}
        assert got == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("operator", list(OPERATORS))
@pytest.mark.parametrize("num_classes", [None, 3], ids=["detector", "classifier"])
def test_sums_are_one_in_every_layer(operator, num_classes):
    for layer in inspect_terms(make(operator, num_classes), batches()).layers:
        assert layer.terms.own + layer.terms.rest == pytest.approx(1, abs=1e-6)
        has_gate = layer.terms.unary_share is not None
        assert has_gate == (operator == "lesa")
        if has_gate:
            assert layer.terms.unary_share + layer.terms.binary_share == pytest.approx(1, abs=1e-6)


def gate_of(value):
    """A model whose gate is the same everywhere."""
    model = make()
    for _, operator in find_modules(model):
        nn.init.zeros_(operator.gate.norm2.weight)
        nn.init.constant_(operator.gate.norm2.bias, torch.tensor(value).logit())
    return model


def test_a_gate_by_hand():
    report = inspect_terms(gate_of(0.25), batches())
    overall = report.overall()
    assert (overall.unary_share, overall.binary_share) == pytest.approx((0.8, 0.2), abs=1e-6)
    assert list(report.stages()) == ["res4", "res5"]


def test_no_map_of_all_pairs_at_64_by_64():
    layer = LESA(16, 16, num_heads=2, feat_size=64).eval()

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor)]
            self.numel = max([self.numel, *(t.numel() for t in tensors)])
            return out

    with Largest() as largest:
        report = inspect_terms(nn.Sequential(layer), [torch.randn(1, 16, 64, 64)])
    assert report.layers[0].sizes == [(64, 64)]
    assert largest.numel < 4096**2 / 8


def hooks_of(model):
    return sum(len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails):
    model = make().train()
    model.stem.eval()  # frozen parts may differ from the rest
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    inside = []
    model.stages[0].register_forward_pre_hook(
        lambda m, args: inside.append((m.training, torch.is_grad_enabled()))
    )
    if fails:
        with pytest.raises(RuntimeError, match="channels"):
            inspect_terms(model, [torch.randn(1, 3, 64, 64), torch.randn(1, 4, 64, 64)])
    else:
        inspect_terms(model, batches())
    assert set(inside) == {(False, False)}
    assert [m.training for m in model.modules()] == modes
    assert hooks_of(model) == 0
    assert torch.is_grad_enabled()
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_parts_do_not_outlive_their_pass():
    """An operator's maps are told once, and not kept: maps of a large image are large."""
    model, seen, references = make(), [], []

    def see(observation):
        seen.append({name: part.shape[2:] for name, part in observation.parts.items()})
        references.extend(weakref.ref(part) for part in observation.parts.values())

    with observing(model, see):
        for batch in batches():
            model(batch)
            assert [r() for r in references] == [None] * len(references)
    assert [set(parts) for parts in seen] == [{"unary", "binary", "gate"}] * 4
    assert [{tuple(size) for size in parts.values()} for parts in seen] == [{(4, 4)}] * 2 + [{(3, 5)}] * 2


def test_a_model_without_operators_is_an_error():
    with pytest.raises(LesaError, match=r"operators of the slot .* got a ResNet with ordinary convolutions"):
        inspect_terms(make("conv"), batches())
    with pytest.raises(LesaError, match="operators of the slot"), without_own_position(make("conv")):
        pass


def test_no_image_is_an_error():
    with pytest.raises(LesaError, match="at least one image, got none"):
        inspect_terms(make(), [])


def test_a_layer_that_never_runs_is_an_error():
    model = make()
    model.unused = SelfAttention(8, 8, num_heads=2)
    with pytest.raises(LesaError, match="never ran unused"):
        inspect_terms(model, batches())


@pytest.mark.parametrize("given", [(), ("masked",)], ids=["dropped", "masked"])
def test_own_position_is_left_out_within_the_context_alone(given):
    model, image = make("self_attention"), torch.randn(1, 3, 64, 64)
    plain = definition.by_definition(copy.deepcopy(model))
    with torch.no_grad():
        before = model(image)["res5"]
        with without_own_position(model, *given), without_own_position(plain, *given):
            removed, expected = model(image)["res5"], plain(image)["res5"]
            own = [layer.attention.own_position for layer in find_layers(model)]
        after = model(image)["res5"]
    assert own == [*(given or ("dropped",))] * 2
    torch.testing.assert_close(removed, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(removed, before, rtol=1e-2, atol=1e-2)
    assert torch.equal(after, before)


def test_context_without_own_position_ends_by_an_error_too():
    model = make()
    with pytest.raises(KeyError), without_own_position(model):
        raise KeyError
    assert [layer.attention.own_position for layer in find_layers(model)] == ["kept", "kept"]


def test_training_without_own_position_is_an_error():
    model = make().train()
    with without_own_position(model), pytest.raises(RuntimeError, match=r"is for evaluation; call eval\(\)"):
        model(torch.randn(2, 3, 64, 64))


def cells_of(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_table_and_files(tmp_path):
    report = inspect_terms(gate_of(0.25), batches())
    assert report.save(tmp_path / "new/folder") == tmp_path / "new/folder"
    text = (tmp_path / "new/folder/terms.md").read_text(encoding="utf-8")
    assert text.startswith(report.table())
    rows = [cells_of(line) for line in report.table().splitlines()]
    assert [row[0] for row in rows[2:]] == [*LABELS, "res4, mean", "res5, mean", "all, mean"]
    assert rows[2][1:3] == ["LESA", "3×5 … 4×4"]
    assert rows[2][6:8] == ["80.000", "20.000"]
    data = json.loads((tmp_path / "new/folder/terms.json").read_text(encoding="utf-8"))
    assert data["images"] == 3
    assert data["layers"][0]["terms"]["own"] == report.layers[0].terms.own
    assert data["overall"]["own"] == pytest.approx(sum(x.terms.own for x in report.layers) / 2)
    assert set(data["stages"]) == {"res4", "res5"}


@pytest.mark.parametrize(("own_position", "weight"), [("dropped", "90.00"), ("masked", "100.00")])
def test_accuracy_stands_beside_error_and_weight(own_position, weight, tmp_path):
    """As in Table 1 of the paper."""
    terms = Terms(own=0.1, rest=0.9)
    layers = [LayerTerms("a", "res4.1", "res4", "SelfAttention", [(4, 4)], terms)]
    report = TermReport(1, layers, Accuracy(78.69, 71.13, own_position))
    rows = [cells_of(line) for line in report.accuracy_table().splitlines()]
    assert rows[0] == ["own position", "top-1 %", "top-1 error %", "softmax weight %"]
    assert rows[2:] == [["kept", "78.69", "21.31", "100.00"], [own_position, "71.13", "28.87", weight]]
    report.save(tmp_path)
    assert report.accuracy_table() in (tmp_path / "terms.md").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "terms.json").read_text(encoding="utf-8"))["accuracy"]
    assert saved == {"as_trained": 78.69, "without_own": 71.13, "own_position": own_position}
    assert TermReport(1, layers).accuracy_table() == ""


def test_what_an_operator_lacks_stays_empty_and_is_explained():
    static = inspect_terms(make("static_lesa"), batches())
    assert cells_of(static.table().splitlines()[2])[6:8] == ["", ""]
    assert "ω is 1 by definition" in static.explanation()
    attention = inspect_terms(make("self_attention"), batches())
    assert cells_of(attention.table().splitlines()[2])[8] == ""
    assert "without a unary term" in attention.explanation()
    assert "by definition" not in attention.explanation()


@pytest.mark.parametrize(
    ("operator", "panels"), [("lesa", 3), ("self_attention", 2), ("attention_augmentation", 1)]
)
def test_plot_has_the_panels_there_is_something_for(operator, panels, tmp_path):
    file = plot_terms(inspect_terms(make(operator), batches()), tmp_path / "new/terms.png")
    assert cv2.imread(str(file)).shape[0] == round(120 * (2.6 * panels + 0.6))


class Local(SlotOperator):
    """An operator without attention."""

    def build(self, norm):
        self.unary = self.make_unary(norm)

    def combine(self, x):
        return self.unary(x)


def test_operators_without_attention_are_left_out():
    model = make()
    model.local = Local(8, 8, num_heads=2)
    assert [layer.label for layer in find_layers(model)] == LABELS
    with pytest.raises(LesaError, match="with Local alone"):
        find_layers(nn.Sequential(Local(8, 8, num_heads=2)))
