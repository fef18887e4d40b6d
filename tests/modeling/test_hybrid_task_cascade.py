"""What Hybrid Task Cascade does, rule by rule; its numbers are in test_official_detectors."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from small_detectors import CHANNELS, CLASSES, CONFIGS, STUFF_CLASSES, small_config, small_detector

from lesa_d2.errors import ConfigError, DatasetError
from lesa_d2.modeling import CascadeMaskHead, SemanticRCNN
from lesa_d2.modeling.rcnn import LabelledImages

SIZE = (64, 64)
HTC = CONFIGS["htc"]


def pyramid(images=1):
    return {f"p{k}": torch.randn(images, CHANNELS, *(side // 2**k for side in SIZE)) for k in range(2, 7)}


def labels(images=1, value=None):
    shape = (images, *SIZE)
    return torch.randint(0, STUFF_CLASSES, shape) if value is None else torch.full(shape, value)


def batch(images=1, sem_seg=None):
    sem_seg = labels(images) if sem_seg is None else sem_seg
    return LabelledImages(ImageList(torch.zeros(images, 3, *SIZE), [SIZE] * images), sem_seg)


def truth(*boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    classes = torch.arange(len(boxes)) % CLASSES
    return Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes, gt_masks=BitMasks(masks))


def regions(*boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))


OBJECT = (10, 10, 40, 50)
NEAR = [(8, 10, 41, 50), (12, 9, 40, 47), (0, 0, 30, 30), (30, 30, 64, 64)]


@pytest.fixture
def heads():
    return instantiate(small_config(HTC).model.roi_heads).train()


def losses(heads, found=None, known=None, images=None, features=None):
    with EventStorage():
        return heads(
            images or batch(),
            features or pyramid(),
            [regions(*NEAR)] if found is None else found,
            [truth(OBJECT)] if known is None else known,
        )[1]


def test_names_of_losses(heads):
    stages = [f"{name}_stage{t}" for t in range(3) for name in ("loss_cls", "loss_box_reg", "loss_mask")]
    assert list(losses(heads)) == ["loss_sem_seg", *stages]


def test_a_later_mask_loss_trains_all_heads_before_it(heads):
    found = losses(heads)
    found["loss_mask_stage2"].backward()
    for head in heads.mask_head:
        assert head.mask_fcn1.weight.grad.abs().sum() > 0
    assert heads.mask_head[0].predictor.weight.grad is None  # each head's own logits are its own business
    assert heads.mask_head[2].predictor.weight.grad.abs().sum() > 0
    assert heads.mask_head[1].conv_res.weight.grad.abs().sum() > 0
    assert heads.semantic_head.embedding.weight.grad.abs().sum() > 0


def test_boxes_handed_on_carry_no_gradient(heads):
    losses(heads)["loss_cls_stage1"].backward()
    assert heads.box_head[1].fc1.weight.grad.abs().sum() > 0
    assert all(
        p.grad is None for p in (*heads.box_head[0].parameters(), *heads.box_predictor[0].parameters())
    )


def test_features_get_whole_gradients(heads):
    """detectron2's cascade scales them by a third."""
    features = {name: level.requires_grad_() for name, level in pyramid().items()}
    heads.semantic_head = heads.semantic_pooler = None
    boxes = [regions(*NEAR)]
    scores, _ = heads._run_stage(features, boxes, 0)
    ours = torch.autograd.grad(scores.sum(), features["p2"])[0]
    pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [boxes[0].proposal_boxes])
    plain, _ = heads.box_predictor[0](heads.box_head[0](pooled))
    torch.testing.assert_close(ours, torch.autograd.grad(plain.sum(), features["p2"])[0])
    assert ours.abs().sum() > 0


def test_what_a_stage_hands_on(heads):
    """All sampled boxes but the ground truth, decoded and clipped; empty ones stay."""
    for predictor in heads.box_predictor:
        torch.nn.init.zeros_(predictor.bbox_pred.weight)  # boxes stay where they are
    given = [*NEAR, (50, 50, 90, 60), (20, 20, 20, 30)]
    with EventStorage():
        sampled = heads._sample(0, [regions(*given)], [truth(OBJECT)])
        assert sorted(sampled[0].is_gt.tolist()) == [False] * 6 + [True]
        predictions = heads._run_stage({**pyramid(), "semantic": torch.randn(1, CHANNELS, 8, 8)}, sampled, 0)
        handed_on = heads._refine(0, predictions, sampled)[0]
    clipped = [*NEAR, (50, 50, 64, 60), (20, 20, 20, 30)]
    kept = handed_on.proposal_boxes.tensor[~handed_on.is_out]
    assert sorted(map(tuple, kept.tolist())) == sorted(clipped)


def test_what_was_ground_truth_is_not_sampled_again(heads):
    with EventStorage():
        sampled = heads._sample(0, [regions(*NEAR)], [truth(OBJECT)])
        predictions = torch.zeros(len(sampled[0]), CLASSES + 1), 0.01 * torch.randn(len(sampled[0]), 4)
        refined = heads._refine(0, predictions, sampled)[0]
        again = heads._sample(1, [refined], [truth(OBJECT)])[0]
    assert refined.is_out.equal(sampled[0].is_gt)
    kept, new = refined.proposal_boxes.tensor[~refined.is_out], again.proposal_boxes.tensor[~again.is_gt]
    assert len(kept) == len(refined) - 1
    assert sorted(new.tolist()) == sorted(kept.tolist())


def test_every_stage_samples_anew(monkeypatch):
    """Once for boxes and once for masks, each with ground truth, no more than the sampler's share."""
    model = small_config(HTC).model.roi_heads
    model.batch_size_per_image = 8
    heads = instantiate(model).train()
    seen = []
    original = type(heads)._sample

    def spy(self, stage, found, known):
        sampled = original(self, stage, found, known)
        seen.append((stage, len(sampled[0]), int((sampled[0].gt_classes < CLASSES).sum())))
        return sampled

    monkeypatch.setattr(type(heads), "_sample", spy)
    losses(heads, [regions(*[NEAR[0]] * 20, *[NEAR[3]] * 20)])
    assert [stage for stage, _, _ in seen] == [0, 0, 1, 1, 2, 2]
    assert seen[0] == (0, 8, 2)  # a quarter of positives
    assert all(number <= 8 and 1 <= positive <= 2 for _, number, positive in seen)


@pytest.mark.parametrize(("stage", "expected"), [(0, 3), (1, 2), (2, 1)])
def test_a_stage_matches_by_its_own_iou(heads, stage, expected):
    """IoU 0.55, 0.65 and 0.75 with the object, which itself is added: so one more."""
    tall = [(0, 0, 40, 0.55 * 40), (0, 0, 40, 0.65 * 40), (0, 0, 40, 0.75 * 40)]
    with EventStorage():
        sampled = heads._sample(stage, [regions(*tall)], [truth((0, 0, 40, 40))])[0]
    assert int((sampled.gt_classes < CLASSES).sum()) == expected + 1


def test_weights_of_the_losses(heads):
    """Stages by 1, ½ and ¼ (boxes, masks); the semantic branch by 0.2."""
    assert [p.loss_weight for p in heads.box_predictor] == [
        {"loss_cls": w, "loss_box_reg": w} for w in (1.0, 0.5, 0.25)
    ]
    assert [head.loss_weight for head in heads.mask_head] == [1.0, 0.5, 0.25]
    torch.manual_seed(0)
    features = pyramid()
    before = losses(heads, features=features)
    heads.mask_head[1].loss_weight = 5.0
    after = losses(heads, features=features, images=None)
    torch.testing.assert_close(after["loss_mask_stage1"], 10 * before["loss_mask_stage1"])


def test_semantic_loss_by_hand(heads):
    """Uniform logits: 0.2 · log(7) at the labelled pixels, which are every eighth from the first."""
    logits = torch.zeros(1, STUFF_CLASSES, 8, 8)
    sem_seg = labels(value=255)
    assert heads.semantic_head.loss(logits, sem_seg) == 0
    sem_seg[0, 1, 1] = 3  # no eighth pixel
    assert heads.semantic_head.loss(logits, sem_seg) == 0
    sem_seg[0, 8, 16] = 3
    expected = 0.2 * torch.tensor(float(STUFF_CLASSES)).log()
    torch.testing.assert_close(heads.semantic_head.loss(logits, sem_seg), expected)
    logits[0, 3, 1, 2] = 50.0
    assert heads.semantic_head.loss(logits, sem_seg) < 1e-6


@torch.no_grad()
def test_scores_average_logits_and_masks_average_probabilities(heads):
    heads.eval()
    features, _ = heads._with_semantics(pyramid())
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.cls_score.weight)
        predictor.test_score_thresh = 0.0
        predictor.test_nms_thresh = 1.0
        predictor.test_topk_per_image = -1
    found = [regions(OBJECT)]
    detections = heads._forward_box(features, found)[0]
    logits, current = [], found
    for stage, predictor in enumerate(heads.box_predictor):
        predictions = heads._run_stage(features, current, stage)
        logits.append(predictions[0])
        boxes = predictor.predict_boxes(predictions, current)
        current = heads._create_proposals_from_boxes(boxes, [SIZE])
    expected = torch.stack(logits).mean(0).softmax(-1)[0, :CLASSES]
    torch.testing.assert_close(detections.scores[detections.pred_classes.argsort()], expected)
    torch.testing.assert_close(detections.pred_boxes.tensor[0], current[0].proposal_boxes.tensor[0])
    masks = heads._forward_mask(features, [detections])[0].pred_masks
    refined, parts = None, []
    for head in heads.mask_head:
        refined = head.refine(heads._pool_masks(features, [detections.pred_boxes]), refined)
        parts.append(head.predict(refined).sigmoid())
    picked = torch.stack(parts).mean(0)[torch.arange(CLASSES), detections.pred_classes]
    torch.testing.assert_close(masks[:, 0], picked)


def test_first_mask_head_has_no_earlier_one(heads):
    assert [hasattr(head, "conv_res") for head in heads.mask_head] == [False, True, True]
    pooled = torch.randn(2, CHANNELS, 14, 14)
    head = heads.mask_head[1]
    torch.testing.assert_close(head.layers(pooled), head.predict(head.refine(pooled)))


# ------------------------------------------------------------------------------------ odd input


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ([[NEAR], [NEAR]], [[OBJECT], []]),  # one image without objects
        ([[NEAR], [NEAR]], [[], []]),
        ([[[]], [[]]], [[OBJECT], []]),  # no proposal but the ground truth
        ([[[]], [[]]], [[], []]),  # nothing at all
        ([[NEAR], [[]]], [[OBJECT, (20, 20, 21, 21)], [(63, 63, 64, 64)]]),  # objects of one pixel
        ([[[(5, 5, 5, 5)]], [NEAR]], [[OBJECT], [OBJECT]]),  # an empty proposal
    ],
)
def test_losses_of_odd_batches_are_finite_and_reach_everything(heads, found, known):
    found = [regions(*boxes) for (boxes,) in found]
    total = losses(
        heads, found, [truth(*boxes) for boxes in known], batch(2, labels(2, value=255)), pyramid(2)
    )
    assert all(loss.isfinite() for loss in total.values())
    sum(total.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


@torch.no_grad()
@pytest.mark.parametrize("found", [[[], []], [[(5, 5, 5, 5)], []], [NEAR, []]])
def test_detections_from_odd_proposals(heads, found):
    heads.eval()
    detections, _ = heads(batch(2), pyramid(2), [regions(*boxes) for boxes in found], None)
    assert [len(image.pred_masks) == len(image) for image in detections] == [True, True]
    assert detections[0].pred_masks.shape[1:] == (1, 28, 28)


def test_boxes_that_are_not_finite_say_so(heads):
    torch.nn.init.constant_(heads.box_predictor[0].bbox_pred.bias, float("nan"))
    for known in ((OBJECT,), ()):  # the loss of boxes knows those of foreground alone
        found = losses(heads, known=[truth(*known)])
        assert [name for name, value in found.items() if value.isnan()] == ["loss_box_reg_stage0"]


# ------------------------------------------------------------------------------------- variants


def test_without_semantic_branch():
    model = small_config(HTC).model.roi_heads
    model.semantic_head = model.semantic_pooler = None
    heads = instantiate(model).train()
    found = losses(heads, images=ImageList(torch.zeros(1, 3, *SIZE), [SIZE]))
    assert "loss_sem_seg" not in found
    assert len(found) == 9


def test_without_masks():
    model = small_config(HTC).model.roi_heads
    model.mask_heads = model.mask_in_features = model.mask_pooler = None
    heads = instantiate(model)
    known = truth(OBJECT)
    known.remove("gt_masks")
    assert not any("mask" in name for name in losses(heads.train(), known=[known]))
    with torch.no_grad():
        detections, _ = heads.eval()(batch(), pyramid(), [regions(*NEAR)], None)
    assert not detections[0].has("pred_masks")


def test_parts_that_do_not_fit_together():
    model = small_config(HTC).model.roi_heads
    model.mask_heads = model.mask_heads[:2]
    with pytest.raises(ValueError, match="expected 3 mask heads, one a stage, got 2"):
        instantiate(model)
    model = small_config(HTC).model.roi_heads
    model.semantic_pooler = None
    with pytest.raises(
        ValueError, match=r"belong together: give all or none, got none for .'semantic_pooler'"
    ):
        instantiate(model)
    model = small_config(HTC).model.roi_heads
    model.mask_heads = None
    with pytest.raises(ValueError, match=r"belong together: give all or none, got none for .'mask_heads'"):
        instantiate(model)
    model = small_config(HTC).model.roi_heads.semantic_head
    model.fused_level = "p9"
    with pytest.raises(ValueError, match=r"fused_level must be one of in_features .*'p9'"):
        instantiate(model)


def test_a_mask_head_of_one_convolution_less():
    from detectron2.layers import ShapeSpec

    shape = ShapeSpec(channels=6, width=14, height=14)
    head = CascadeMaskHead(shape, follows=True, conv_dims=[4], num_classes=2)
    pooled = torch.randn(1, 6, 14, 14)
    assert head.predict(head.refine(pooled, pooled)).shape == (1, 2, 28, 28)


# --------------------------------------------------------------------------------- whole detector


def picture(size=SIZE, sem_seg=True, objects=(OBJECT,)):
    item = {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "instances": truth(*objects)}
    if sem_seg:
        item["sem_seg"] = torch.randint(0, STUFF_CLASSES, size)
    return item


def train_losses(model, *items):
    with EventStorage():
        return model.train()(list(items))


def test_a_training_step_leaves_frozen_parts_and_statistics_alone():
    model = small_detector(HTC)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    sum(train_losses(model, picture(), picture(objects=())).values()).backward()
    optimizer.step()
    bottom_up = "backbone.bottom_up."
    frozen = [
        n for n, p in model.named_parameters() if n.startswith((f"{bottom_up}stem", f"{bottom_up}res2"))
    ]
    assert frozen
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in frozen), name
    after = model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before if "running_" in n or n in frozen)
    assert not torch.equal(
        after[f"{bottom_up}res3.0.conv1.norm.weight"], before[f"{bottom_up}res3.0.conv1.norm.weight"]
    )


def test_images_of_different_sizes_are_padded_with_the_ignored_label(monkeypatch):
    model = small_detector(HTC).train()
    images = model.preprocess_image([picture((40, 56)), picture((64, 33))])
    assert images.sem_seg.shape == (2, 64, 64)
    assert images.tensor.shape[-2:] == (64, 64)
    assert (images.sem_seg[0, 40:] == 255).all()
    assert (images.sem_seg[0, :, 56:] == 255).all()
    assert (images.sem_seg[1, :, :33] != 255).all()
    assert all(loss.isfinite() for loss in train_losses(model, picture((40, 56)), picture((64, 33))).values())


@torch.no_grad()
def test_inference_needs_no_stuff_map():
    model = small_detector(HTC).eval()
    found = model([{"image": picture((50, 70))["image"], "height": 100, "width": 140}])[0]["instances"]
    assert found.image_size == (100, 140)
    assert found.pred_masks.shape == (len(found), 100, 140)


def test_bad_stuff_maps_name_their_image():
    model = small_detector(HTC)
    with pytest.raises(DatasetError, match=r"stuff map of 7\.jpg: the input has no sem_seg"):
        train_losses(model, {**picture(sem_seg=False), "file_name": "7.jpg"})
    with pytest.raises(
        DatasetError, match=r"7\.png: expected the size of its image, \(64, 64\), got \(8, 8\)"
    ):
        train_losses(model, {**picture(), "sem_seg": torch.zeros(8, 8), "sem_seg_file_name": "7.png"})
    wrong = torch.full(SIZE, 7)
    with pytest.raises(DatasetError, match=r"expected labels of 0 to 6, and 255 .*, got 7 to 7"):
        train_losses(model, {**picture(), "sem_seg": wrong})


def test_a_plain_rcnn_around_the_heads_says_what_is_missing():
    cfg = small_config(HTC).model
    cfg._target_ = GeneralizedRCNN
    del cfg.init
    with pytest.raises(ConfigError, match=r"build the detector as lesa_d2\.modeling\.SemanticRCNN"):
        train_losses(instantiate(cfg), picture())


def test_semantic_rcnn_serves_heads_without_a_semantic_branch():
    cfg = small_config(CONFIGS["mask_rcnn"]).model
    cfg._target_ = SemanticRCNN
    assert "loss_mask" in train_losses(instantiate(cfg), picture(sem_seg=False))


def test_bfloat16():
    model = small_detector(HTC)
    with torch.autocast("cpu", torch.bfloat16):
        found = train_losses(model, picture())
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values()).backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = model.eval()([picture()])[0]["instances"].scores
    assert scores.dtype == torch.float32
