#!/usr/bin/env python
"""Show what the unary and the binary term contribute: the command ``lesa inspect``."""

import sys

from lesa_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
