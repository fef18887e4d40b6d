#!/usr/bin/env python
"""Write backbone and FPN as torch.export and ONNX files: the command ``lesa export``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
