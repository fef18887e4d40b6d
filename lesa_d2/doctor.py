"""``python -m lesa_d2.doctor``: check the environment, a config, a data set and a checkpoint."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
