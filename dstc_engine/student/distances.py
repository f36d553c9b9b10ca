"""Names of the distances that a student's images are judged by; `gates.py` measures them.

Apart from the formulas, since result columns need the names and not the seconds torch takes.
"""

from __future__ import annotations

# In the order of result columns.
DISTANCES = ("structure", "style_cls", "clip", "blur")
