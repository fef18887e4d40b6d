#!/usr/bin/env python
"""Train several operators with several seeds, the paper's Table 6 in miniature: ``lesa compare operators``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "operators", *sys.argv[1:]]))
