#!/usr/bin/env python
"""Train or evaluate a classifier: ``--config-file configs/imagenet_lesa_r50.py --data DIR``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
