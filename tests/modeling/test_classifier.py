"""The classifier around the backbone."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage

from lesa_d2.modeling import ImageClassifier, build_lesa_resnet

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)


def classifier(**options):
    backbone = build_lesa_resnet(
        "lesa",
        image_size=32,
        num_classes=5,
        base_channels=8,
        stem_channels=8,
        num_heads=4,
        blocks=[1, 1, 2, 1],
    )
    return ImageClassifier(backbone, pixel_mean=MEAN, pixel_std=STD, **options)


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    return {"image": image, "label": torch.tensor([0, 1, 2, 3, 4, 0])}


def test_evaluation_is_the_backbone_on_normalised_pixels(batch):
    model = classifier().eval()
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, STD))
    normalised = (batch["image"].float() - mean) / std
    torch.testing.assert_close(model.preprocess(batch), normalised)
    torch.testing.assert_close(model(batch), model.backbone(normalised)["linear"])
    assert model(batch).shape == (6, 5)


def test_loss_is_cross_entropy_with_smoothing_and_training_accuracy_is_noted(batch):
    model = classifier(label_smoothing=0.1)
    logits = []
    model.backbone.linear.register_forward_hook(lambda module, inputs, output: logits.append(output))
    with EventStorage(0) as storage:
        loss = model(batch)["loss_cls"]
        noted = storage.latest()["train_top1"][0]
    log_p = logits[0].log_softmax(1)
    target = 0.9 * F.one_hot(batch["label"], 5) + 0.1 / 5
    torch.testing.assert_close(loss, -(target * log_p).sum(1).mean())
    assert noted == pytest.approx(100 * (logits[0].argmax(1) == batch["label"]).float().mean().item())
    assert set(model(batch)) == {"loss_cls"}  # without a storage too


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_changes_images_and_targets_by_the_random_generator(batch, options):
    model, plain = classifier(**options), classifier()
    plain.load_state_dict(model.state_dict())
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def loss(seed):
        torch.manual_seed(seed)
        return model(batch)["loss_cls"]

    torch.testing.assert_close(loss(0), loss(0))
    assert not torch.equal(loss(0), loss(1))
    assert not torch.equal(loss(0), plain(batch)["loss_cls"])
    assert not torch.equal(seen[0], model.preprocess(batch))
    assert torch.equal(seen[0], seen[1])


def test_channel_statistics_are_no_weights():
    assert all(name.startswith("backbone.") for name in classifier().state_dict())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_classes"):
        ImageClassifier(build_lesa_resnet("conv"), pixel_mean=MEAN, pixel_std=STD)
    with pytest.raises(ValueError, match="got 2 and 3"):
        ImageClassifier(build_lesa_resnet("conv", num_classes=2), pixel_mean=(1.0, 2.0), pixel_std=STD)
    for options in ({"label_smoothing": 1.0}, {"mixup": -1.0}):
        with pytest.raises(ValueError, match="must"):
            classifier(**options)
