"""Makes a shipped config small enough to train and evaluate in a second or two."""

from omegaconf import DictConfig, OmegaConf

SIDE = 64
SHAPES = {"train": 8, "val": 4}


def shrink(config):
    """Change a config's sections in place, before any command line does.

    Args:
        config: its sections by name, such as the namespace of a config file.
    """
    model, dataloader, train = (config[name] for name in ("model", "dataloader", "train"))
    is_detector = "roi_heads" in model
    backbone = model.backbone.bottom_up if is_detector else model.backbone
    backbone.update(base_channels=8, stem_channels=8, blocks=[1, 1, 2, 1], num_heads=4, image_size=SIDE)
    if is_detector:
        _shrink_detector(model)
        for loader in (dataloader.train, dataloader.test):
            _shrink_resizing(loader.mapper.augmentations)
        _shrink_shapes(dataloader)
    else:
        dataloader.train.mapper.transform.transforms[0].size = [SIDE, SIDE]
        dataloader.test.mapper.transform.transforms[-1].size = [SIDE, SIDE]
    dataloader.train.update(total_batch_size=2, num_workers=0)
    dataloader.test.num_workers = 0
    train.update(max_iter=2, eval_period=0, log_period=1, reference_batch=2)
    train.checkpointer.period = 2
    if train.get("epochs"):
        train.epochs = 1


def _shrink_detector(model):
    heads = model.roi_heads
    for head in heads.get("box_heads") or [heads.box_head]:
        head.fc_dims = [16, 16]
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.input_shape.channels = 16
    for head in heads.get("mask_heads") or [heads.mask_head]:
        head.conv_dims = [16, 16]
    heads.batch_size_per_image = 16
    model.proposal_generator.post_nms_topk = [30, 10]


def _shrink_resizing(augmentations):
    if OmegaConf.is_interpolation(augmentations, 0):  # that of training
        return
    key, value = ("ranges", [[32, SIDE]]) if "ranges" in augmentations[0] else ("shape", [SIDE, SIDE])
    augmentations[0][key] = value


def _shrink_shapes(dataloader):
    for loader, split in ((dataloader.train, "train"), (dataloader.test, "val")):
        names = loader.dataset.names
        if isinstance(names, DictConfig) and "num_images" in names:
            names.update(num_images=SHAPES[split], image_size=SIDE)
