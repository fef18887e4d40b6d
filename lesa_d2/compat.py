"""Names of other libraries that they do not promise to keep, each with the reason why it is needed.

Nothing else in the package uses such names, or changes other libraries.  Tested with torch 2.6 to 2.14, torchvision
0.21 to 0.29, detectron2 0.6 (main branch) and omegaconf 2.3; tests/test_compat.py fails when one of them changes.
"""

import logging

from detectron2.utils.logger import setup_logger

_ours: dict[str, list[logging.Handler]] = {}


def fresh_logger(name: str, folder: str, rank: int) -> logging.Logger:
    """Set up a logger by detectron2's ``setup_logger``, in place of what an earlier run of this process set up.

    ``setup_logger`` is cached by its arguments and adds handlers at every call: its cache has to be cleared, and the
    handlers of the run before removed, or a second run in the process would log into the folder of the first.
    Handlers of the host program stay.
    """
    logger = logging.getLogger(name)
    for handler in _ours.pop(name, []):
        logger.removeHandler(handler)
    before = list(logger.handlers)
    setup_logger.cache_clear()
    setup_logger(folder, distributed_rank=rank, name=name)
    _ours[name] = [handler for handler in logger.handlers if handler not in before]
    return logger
