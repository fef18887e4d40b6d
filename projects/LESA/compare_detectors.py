#!/usr/bin/env python
"""Train several detectors with several seeds: the command ``lesa compare detectors``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "detectors", *sys.argv[1:]]))
