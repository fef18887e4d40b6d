"""What a run starts from: a convolution, a file without statistics, or nothing."""

import pytest
import torch
from runs import (
    CLASSIFIER,
    TINY,
    TINY_CLASSIFIER,
    initial_weights,
    losses,
    pretrain,
    train,
    train_net,
    weights,
)

from lesa_d2.checkpoint import to_official
from lesa_d2.config import load_config
from lesa_d2.data import generate_shape_images
from lesa_d2.engine.conversion import convert_convolution
from lesa_d2.modeling import build_lesa_resnet

CONFIG = "quickstart_lesa"
BACKBONE = "backbone.bottom_up."
STORED = "model.backbone.bottom_up.norm=EvalBN"


@pytest.fixture
def convolution(tmp_path):
    """Initial weights of a detector with convolutions in the slots."""
    initial_weights(tmp_path / "conv.pth", "quickstart_conv", *TINY, "train.device=cpu")
    return tmp_path / "conv.pth"


def run(folder, *options):
    return train(["--config-file", CONFIG, *TINY, "train.max_iter=2", f"train.output_dir={folder}", *options])


@pytest.mark.parametrize("norm", ["BN", "EvalBN"])
def test_a_detector_starts_from_a_convolutional_one(convolution, norm, tmp_path, datasets):
    """Heads and FPN are kept, the slots converted, and the statistics fitted to the training images."""
    options = [
        f"train.init_checkpoint={convolution}",
        f"model.backbone.bottom_up.norm={norm}",
        "train.init_images=4",
    ]
    assert run(tmp_path / "run", *options, "train.max_iter=1", "optimizer.lr=1e-12") == 0
    given, ours = torch.load(convolution)["model"], weights(tmp_path / "run")
    for name in (
        "roi_heads.mask_head.predictor.weight",
        "backbone.fpn_lateral4.weight",
        f"{BACKBONE}res3.0.conv1.weight",
    ):
        torch.testing.assert_close(ours[name], given[name], rtol=1e-4, atol=1e-6)
    text = (tmp_path / "run/weights.txt").read_text()
    assert "res4.1.conv2  unary term from the convolution, binary term silent" in text
    if norm == "EvalBN":  # of the slots too, in terms that are silent
        statistics = ours[f"{BACKBONE}res4.1.conv2.binary.qkv_norm.running_var"]
        assert not torch.allclose(statistics, torch.ones(()))


@pytest.mark.parametrize("operator", ["static_lesa", "self_attention", "attention_augmentation"])
def test_detectors_of_other_operators_start_from_a_convolutional_classifier(operator, tmp_path, datasets):
    """Of self-attention the convolution gives the values alone, and the rest of the binary term keeps its start."""
    start = initial_weights(
        tmp_path / "classifier.pth",
        CLASSIFIER,
        *TINY_CLASSIFIER,
        "model.backbone.operator=conv",
        "model.backbone.stem_channels=32",
        "train.device=cpu",
    )
    options = [f"model.backbone.bottom_up.operator={operator}", "train.init_images=4", "train.max_iter=1"]
    assert run(tmp_path / "run", start, *options) == 0
    assert "res4.1.conv2" in (tmp_path / "run/weights.txt").read_text()


def test_a_classifier_starts_from_one_of_other_classes(tmp_path):
    data = generate_shape_images(tmp_path / "pictures", num_images=150, image_size=40, seed=0)
    operator = "model.backbone.operator=conv"
    start = initial_weights(
        tmp_path / "conv.pth",
        CLASSIFIER,
        *TINY_CLASSIFIER,
        operator,
        "model.backbone.num_classes=3",
        "train.device=cpu",
    )
    arguments = ["--config-file", CLASSIFIER, "--data", str(data), *TINY_CLASSIFIER]
    assert (
        pretrain([*arguments, f"train.output_dir={tmp_path / 'run'}", start, "train.init_partial=True"]) == 0
    )
    assert "unary term from the convolution" in (tmp_path / "run/weights.txt").read_text()


@pytest.mark.parametrize("stride", [1, 2])
def test_another_stride_of_res5_is_said(stride, tmp_path, caplog):
    """torchvision's networks have 2, our classifiers 1."""
    source = build_lesa_resnet("conv", base_channels=8, stem_channels=8, blocks=(1, 1, 2, 1), num_classes=12)
    torch.save(to_official(source.state_dict()), tmp_path / "resnet.pth")
    options = [*TINY_CLASSIFIER, "train.device=cpu", f"model.backbone.res5_stride={stride}"]
    with caplog.at_level("WARNING", logger="lesa_d2"):
        convert_convolution(
            str(tmp_path / "resnet.pth"), tmp_path / "x.pth", load_config(CLASSIFIER, options)
        )
    assert ("res5 of this model has stride 1" in caplog.text) == (stride == 1)


def test_every_process_starts_from_the_same_weights(convolution, tmp_path, datasets):
    """Each reads training images of its own; those of the first count."""
    options = [f"train.init_checkpoint={convolution}", STORED, "train.init_images=4", "train.max_iter=2"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    code = (
        "import sys, torch, torch.distributed as dist\n"
        "from lesa_d2.cli import main\n"
        "from lesa_d2.engine import training\n"
        "load = training.load_start\n"
        "def compare(cfg, checkpointer):\n"
        "    report = load(cfg, checkpointer)\n"
        "    total = sum(v.double().abs().sum() for v in checkpointer.model.state_dict().values()).reshape(1)\n"
        "    both = [torch.zeros_like(total) for _ in range(2)]\n"
        "    dist.all_gather(both, total)\n"
        "    assert torch.equal(*both), both\n"
        "    print('the same weights')\n"
        "    return report\n"
        "training.load_start = compare\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    script = tmp_path / "both.py"
    script.write_text(code)
    output = f"train.output_dir={tmp_path / 'run'}"
    result = train_net("--config-file", CONFIG, *TINY, *options, output, launcher=launcher, script=script)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("the same weights") == 2


def test_from_nothing_is_refused_where_statistics_are_stored(tmp_path, datasets, capsys):
    assert run(tmp_path / "run", STORED) == 2
    message = capsys.readouterr().err
    for words in (
        "EvalBatchNorm2d",
        "mean 0 and variance 1",
        "norm=BN",
        "freeze_at=0",
        "torchvision://resnet50",
    ):
        assert words in message
    assert (
        run(tmp_path / "frozen", "model.backbone.bottom_up.freeze_at=2") == 2
    )  # FrozenBN in the stem and res2
    assert "FrozenBatchNorm2d" in capsys.readouterr().err
    assert run(tmp_path / "batch", "model.backbone.bottom_up.norm=BN") == 0


def test_statistics_that_a_partial_start_lacks_are_estimated(tmp_path, datasets):
    """A file of which the slots have other names: they start fresh, and with statistics that fit."""
    initial_weights(tmp_path / "lesa.pth", CONFIG, *TINY, STORED, "train.device=cpu")
    given = torch.load(tmp_path / "lesa.pth")["model"]
    kept = {name: value for name, value in given.items() if ".conv2.binary." not in name}
    torch.save({"model": kept}, tmp_path / "part.pth")
    options = [f"train.init_checkpoint={tmp_path / 'part.pth'}", "train.init_partial=True", STORED]
    assert run(tmp_path / "run", *options, "train.init_images=4") == 0
    ours = weights(tmp_path / "run")
    assert not torch.allclose(ours[f"{BACKBONE}res4.1.conv2.binary.qkv_norm.running_var"], torch.ones(()))
    assert torch.equal(
        ours[f"{BACKBONE}res3.0.conv1.norm.running_var"], given[f"{BACKBONE}res3.0.conv1.norm.running_var"]
    )
    assert "The file has no statistics for" in (tmp_path / "run/log.txt").read_text()
    assert losses(tmp_path / "run")


def test_a_partial_start_counts_what_is_outside_the_slots(tmp_path, datasets, capsys):
    """Of a wide network the slots are more than half; a file without them may still start it."""
    initial_weights(tmp_path / "lesa.pth", CONFIG, *TINY, "train.device=cpu")
    given = torch.load(tmp_path / "lesa.pth")["model"]
    kept = {
        name: value
        for name, value in given.items()
        if not name.startswith((f"{BACKBONE}res4.1.conv2", f"{BACKBONE}res5"))
    }
    torch.save({"model": kept}, tmp_path / "part.pth")
    start = f"train.init_checkpoint={tmp_path / 'part.pth'}"
    assert run(tmp_path / "strict", start) == 2
    assert "Outside the slots" in capsys.readouterr().err
