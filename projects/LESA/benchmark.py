#!/usr/bin/env python
"""Measure time and memory, or compute what a config costs: the command ``lesa benchmark``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
