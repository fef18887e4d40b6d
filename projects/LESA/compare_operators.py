#!/usr/bin/env python
"""Train several operators with several seeds, as the paper's Table 6 at a small size: ``lesa compare operators``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "operators", *sys.argv[1:]]))
