"""The shipped configs and their models by name, as ``detectron2.model_zoo`` has its own."""

from .zoo import Row, Zoo, available, get, get_config

__all__ = ["Row", "Zoo", "available", "get", "get_config"]
