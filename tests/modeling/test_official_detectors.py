"""Mask R-CNN and Hybrid Task Cascade against numbers computed by the authors' released code.

Parameters come through the conversion of checkpoints.  Mask R-CNN is compared from the image on; HTC from the
maps of its pyramid on, as its backbone is too large to keep here.
"""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import EventStorage
from small_detectors import CONFIGS, SIZE, both, proposals, reference, small_detector, targets, unpacked

from lesa_d2.checkpoint import convert_detector, to_official
from lesa_d2.modeling.rcnn import LabelledImages

LEVELS = range(5)


def loaded(kind):
    """The detector with the official parameters, in eval mode, and the vectors."""
    vectors, losses = reference(kind)
    given = {key.removeprefix("param/"): value for key, value in vectors.items() if key.startswith("param/")}
    model = small_detector(CONFIGS[kind])
    model.load_state_dict(convert_detector({**to_official(model.state_dict()), **given}), strict=True)
    return model.eval(), vectors, losses, given


@pytest.fixture(scope="module")
def mask_rcnn():
    return loaded("mask_rcnn")


@pytest.fixture(scope="module")
def htc():
    return loaded("htc")


@pytest.fixture(scope="module")
def pyramids(mask_rcnn, htc):
    """P2–P6 of both images, of Mask R-CNN from the images themselves."""
    with torch.no_grad():
        computed = mask_rcnn[0].backbone(both(mask_rcnn[1], "image"))
    return {"mask_rcnn": computed, "htc": {f"p{i + 2}": both(htc[1], f"fpn{i}") for i in LEVELS}}


@pytest.fixture(params=["mask_rcnn", "htc"])
def detector(request, mask_rcnn, htc, pyramids):
    model, vectors, losses, _ = {"mask_rcnn": mask_rcnn, "htc": htc}[request.param]
    model.eval()
    return request.param, model, vectors, losses, pyramids[request.param]


def close(ours, theirs, atol=1e-4):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def images():
    return ImageList(torch.zeros(2, 3, *SIZE), [SIZE, SIZE])


def test_every_parameter_is_given(mask_rcnn, htc):
    model, _, _, given = mask_rcnn
    assert set(to_official(model.state_dict())) == set(given)
    model, _, _, given = htc
    absent = set(to_official(model.state_dict())) - set(given)
    assert all(key.startswith(("backbone.", "neck.")) for key in absent)


def test_pyramid(mask_rcnn, pyramids):
    for level in LEVELS:
        close(pyramids["mask_rcnn"][f"p{level + 2}"][0], mask_rcnn[1][f"fpn{level}/0"])


@torch.no_grad()
def test_region_proposals(detector):
    _, model, vectors, _, pyramid = detector
    scores, deltas = model.proposal_generator.rpn_head([pyramid[f"p{i + 2}"] for i in LEVELS])
    for level in LEVELS:
        close(scores[level][0], vectors[f"rpn_cls{level}/0"])
        close(deltas[level][0], vectors[f"rpn_reg{level}/0"])
    found, _ = model.proposal_generator(images(), pyramid, None)
    for image in range(2):
        theirs = vectors[f"proposals_from_rpn{image}"]
        boxes, scores = found[image].proposal_boxes.tensor, found[image].objectness_logits.sigmoid()
        # scores that differ by less than rounding may have changed places
        same = torch.cdist(theirs[:, :4], boxes, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        assert same.sort().values.tolist() == list(range(len(boxes)))
        close(boxes[same], theirs[:, :4], atol=0.01)
        close(scores[same], theirs[:, 4])
        close(scores, theirs[:, 4])


@torch.no_grad()
def test_mask_rcnn_heads(mask_rcnn, pyramids):
    model, vectors, _, _ = mask_rcnn
    heads, pyramid = model.eval().roi_heads, pyramids["mask_rcnn"]
    maps = [pyramid[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(maps, [found.proposal_boxes for found in proposals(vectors)])
    scores, deltas = heads.box_predictor(heads.box_head(pooled))
    close(scores, vectors["cls_score"])
    close(deltas, vectors["bbox_pred"])
    close(heads.mask_head.layers(heads.mask_pooler(maps, mask_boxes(vectors))), vectors["mask_logits"])


def mask_boxes(vectors):
    rois = vectors["mask_rois"]
    return [Boxes(rois[rois[:, 0] == image, 1:]) for image in range(2)]


@torch.no_grad()
def test_semantic_branch(htc, pyramids):
    model, vectors, _, _ = htc
    logits, features = model.roi_heads.semantic_head(pyramids["htc"])
    close(logits, vectors["semantic_logits"])
    close(features, vectors["semantic_features"])


@torch.no_grad()
def test_stages_of_the_cascade(htc, pyramids):
    """Boxes that go into every stage, and the scores and deltas that come out."""
    model, vectors, _, _ = htc
    heads = model.eval().roi_heads
    features, _ = heads._with_semantics(pyramids["htc"])
    regions = proposals(vectors)
    for stage in range(3):
        rois = torch.cat([found.proposal_boxes.tensor for found in regions])
        close(rois, vectors[f"stage{stage}_rois"][:, 1:], atol=0.01)
        scores, deltas = heads._run_stage(features, regions, stage)
        close(scores, vectors[f"stage{stage}_cls_score"])
        close(deltas, vectors[f"stage{stage}_bbox_pred"])
        boxes = heads.box_predictor[stage].predict_boxes((scores, deltas), regions)
        regions = heads._create_proposals_from_boxes(boxes, [SIZE, SIZE])


@torch.no_grad()
def test_chain_of_mask_heads(htc, pyramids):
    model, vectors, _, _ = htc
    heads = model.roi_heads
    features, _ = heads._with_semantics(pyramids["htc"])
    pooled, refined = heads._pool_masks(features, mask_boxes(vectors)), None
    for stage, head in enumerate(heads.mask_head):
        refined = head.refine(pooled, refined)
        close(head.predict(refined), vectors[f"stage{stage}_mask_logits"])


@torch.no_grad()
def test_detections(detector):
    """The released code lists detections class by class, ours are sorted by score alone."""
    _, model, vectors, _, pyramid = detector
    detections, _ = model.roi_heads(images(), pyramid, proposals(vectors), None)
    for image, found in enumerate(detections):
        order = torch.argsort(found.pred_classes, stable=True)
        found = detector_postprocess(found[order], *SIZE)
        theirs, masks = vectors[f"det_boxes{image}"], unpacked(vectors[f"det_masks{image}"])
        assert found.pred_classes.tolist() == vectors[f"det_classes{image}"].tolist()
        close(found.pred_boxes.tensor, theirs[:, :4], atol=0.01)
        close(found.scores, theirs[:, 4])
        shared = (found.pred_masks & masks).flatten(1).sum(1)
        union = (found.pred_masks | masks).flatten(1).sum(1)
        assert (shared >= 0.995 * union).all()
        assert (union > 0).sum() >= 10  # some masks are empty in both


def test_training_losses(detector):
    """Few proposals, so that sampling takes them all."""
    kind, model, vectors, expected, pyramid = detector
    model.train()
    batch = images()
    if kind == "htc":
        labels = vectors["gt_semantic"][:, 0].repeat_interleave(8, 1).repeat_interleave(8, 2)
        batch = LabelledImages(batch, labels)
    with EventStorage():
        _, losses = model.roi_heads(batch, pyramid, proposals(vectors), targets(vectors))
    ours = {name: loss.item() for name, loss in losses.items()}
    theirs = {our_name(name): value for name, value in expected.items() if not name.endswith("acc")}
    assert ours == pytest.approx(theirs, rel=1e-4)


def our_name(name):
    name = name.replace("loss_bbox", "loss_box_reg").replace("loss_semantic_seg", "loss_sem_seg")
    stage, dot, loss = name.rpartition(".")
    return f"{loss}_stage{stage.removeprefix('s')}" if dot else name
