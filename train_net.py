#!/usr/bin/env python
"""Train or evaluate a detector: ``python train_net.py --config-file configs/mask_rcnn_lesa_r50.py``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
