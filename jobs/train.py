"""Trains the prior or a small encoder.

    ray job submit --working-dir . -- python jobs/train.py ARGUMENTS

Takes the arguments of `dstc train` and does the same; the work is in `dstc/train.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python looks for packages in the folder of the file it runs; ours lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from dstc.cli import main

    main(["train", *sys.argv[1:]])
