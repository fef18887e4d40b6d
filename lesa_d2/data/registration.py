"""Register data sets with detectron2's catalogs; doing so again is safe."""

from collections.abc import Callable, Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog


def readable_name(name: str) -> str:
    """Return the name of a registered data set for people: its ``title``; the registered name where it has none."""
    return MetadataCatalog.get(name).get("title", name)


def remarks_of(names: Iterable[str]) -> list[str]:
    """Return what registered data sets say about results on them, such as pictures that are for training as well."""
    return list(dict.fromkeys(r for name in names for r in MetadataCatalog.get(name).get("remarks", ())))


def register_dataset(name: str, load: Callable[[], list[dict]], **metadata: Any) -> str:
    """Register ``load`` and its metadata under ``name``, and return ``name``.

    Configs are instantiated more than once in a process (training, evaluation, every worker), so
    the same registration may come again and then changes nothing. The same name with different metadata,
    such as another folder, replaces the older entry.
    """
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if all(known.get(key) == value for key, value in metadata.items()):
            return name
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)
    return name
