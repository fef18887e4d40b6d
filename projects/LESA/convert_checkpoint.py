#!/usr/bin/env python
"""Convert a checkpoint of the authors or of torchvision: the command ``lesa convert``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
