"""Which rows ended with the lowest and the highest structure loss.

Where a run was not evaluated, this tells its best and its worst rows, as far as losses can.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from dstc.reporting.extremes import Extremes, ends_of
from dstc.reporting.parts import THREADS, open_part
from dstc.store import retries
from dstc.store.run_folder import RunFolder

NAME = "loss structure"
# Of this one loss, at a thousand steps each: 16 MB.
_ROWS = 4096


def find_last_extremes(run: RunFolder, parts: Sequence[tuple[int, int]]) -> Extremes:
    """Lowest and highest rows by the structure loss of the last step; of all parts, one by one."""
    extremes = Extremes()
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda part: _read_ends(run, part[0]), parts)
        for (shard, _), ends in zip(parts, found, strict=True):
            extremes.add(shard, {NAME: ends} if ends else {})
    return extremes


def _read_ends(run: RunFolder, shard: int) -> list[tuple[float, int]]:
    try:
        last = retries.with_retries(lambda: _last_structure(run, shard))
    except Exception:  # without this part, then
        return []
    return ends_of({NAME: last}).get(NAME, [])


def _last_structure(run: RunFolder, shard: int) -> npt.NDArray[np.float64]:
    """(rows,) of a part; NaN where a row has no such loss."""
    found = [np.empty(0)]
    with open_part(run, shard) as parquet:
        column = "losses.list.element.structure"
        for batch in parquet.iter_batches(_ROWS, columns=[column]):
            losses = batch.column("losses")
            offsets = losses.offsets.to_numpy()
            values = losses.values.field("structure").to_numpy(zero_copy_only=False)
            last = np.full(len(losses), np.nan)
            has = np.diff(offsets) > 0
            last[has] = values[offsets[1:][has] - 1]
            found.append(last)
    return np.concatenate(found)
