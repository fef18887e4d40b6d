#!/usr/bin/env python
"""Draw predictions on images, video or a camera: the command ``lesa demo``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
