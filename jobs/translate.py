"""Translates every row of a manifest into a run folder.

    ray job submit --working-dir . -- python jobs/translate.py ARGUMENTS

Takes the arguments of `dstc translate` and does the same; the work is in `dstc/translate.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python looks for packages in the folder of the file it runs; ours lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from dstc.cli import main

    main(["translate", *sys.argv[1:]])
