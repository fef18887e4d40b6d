"""detectron2's own models on a LESA backbone."""

from detectron2 import model_zoo

from .backbone import bottom_up, preprocessing


def on_lesa(name):
    """Return detectron2's ``common/models/NAME`` with our backbone and preprocessing."""
    model = model_zoo.get_config(f"common/models/{name}.py").model
    model.backbone.bottom_up = bottom_up
    model.update({key: value for key, value in preprocessing.items() if key in model})
    return model
