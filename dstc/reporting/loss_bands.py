"""Loss curves of a run: medians and bands over steps, from a sample of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dstc.reporting.parts import THREADS, Numbering, Place, by_part, open_part, take_rows
from dstc.store import retries
from dstc.store.run_folder import RunFolder

Array = npt.NDArray[np.float64]
# Rows whose chains are read for the bands: enough for a median and two tenths, and a minute at most
# where each row lies in a part of its own, behind 100 ms of storage.
MAX_ROWS = 400
_LOW, _HIGH = 10, 90


@dataclass(frozen=True)
class Band:
    """One loss over guided steps: median, and where 80 % of the rows are; (steps,) each.

    NaN at steps where no row has the loss.
    """

    name: str
    low: Array
    median: Array
    high: Array


@dataclass(frozen=True)
class Bands:
    """The losses of a sample of rows.

    Attributes:
        bands: one for each loss that was computed. rows: that they are made of. steps: of each.
        resampled: steps at the start that repeat the first.
        restarted: of the rows, those that were started again; their last chain counts.
        of_other_length: rows looked at and left out, since their chains have other steps.
        is_sample: the run has more rows than were looked at.
    """

    bands: Sequence[Band] = ()
    rows: int = 0
    steps: int = 0
    resampled: int = 0
    restarted: int = 0
    of_other_length: int = 0
    is_sample: bool = False


@dataclass(frozen=True)
class Chain:
    """The losses of one row: name -> (steps,), and how many steps at the start repeat the first."""

    losses: Mapping[str, Array]
    resampled: int
    has_restarted: bool

    @property
    def steps(self) -> int:
        return len(next(iter(self.losses.values()), ()))


def read_bands(run: RunFolder, parts: Sequence[tuple[int, int]], most: int = MAX_ROWS) -> Bands:
    """Reads the chains of at most `most` rows, evenly spread over the run.

    Args:
        parts: (shard, rows) of the parts of results.
    """
    numbering = Numbering(parts)
    chains = read_chains(run, numbering.spread(most))
    return replace(bands_of(chains), is_sample=numbering.rows > most)


def read_chains(run: RunFolder, places: Sequence[Place]) -> list[Chain]:
    """The chains of rows at some places, ascending; rows without one are left out."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda part: _read_chains(run, *part), by_part(places))
        return [chain for of_part in found for chain in of_part]


def bands_of(chains: Sequence[Chain]) -> Bands:
    """Medians and tenths over the chains of the length that most have."""
    if not chains:
        return Bands()
    ((steps, _),) = Counter(chain.steps for chain in chains).most_common(1)
    alike = [chain for chain in chains if chain.steps == steps]
    bands = []
    for name in dict.fromkeys(name for chain in alike for name in chain.losses):
        values = np.full((len(alike), steps), np.nan)
        for row, chain in enumerate(alike):
            if name in chain.losses:
                values[row] = chain.losses[name]
        values[~np.isfinite(values)] = np.nan
        if (known := ~np.isnan(values).all(axis=0)).any():
            ends = np.full((3, steps), np.nan)
            ends[:, known] = np.nanpercentile(values[:, known], [_LOW, 50, _HIGH], axis=0)
            bands.append(Band(name, *ends))
    return Bands(
        bands=bands,
        rows=len(alike),
        steps=steps,
        resampled=int(np.median([chain.resampled for chain in alike])),
        restarted=sum(chain.has_restarted for chain in alike),
        of_other_length=len(chains) - len(alike),
    )


def _read_chains(run: RunFolder, shard: int, offsets: Sequence[int]) -> list[Chain]:
    def read() -> list[Chain]:
        with open_part(run, shard) as parquet:
            names = [name for name in ("losses", "restarts") if name in parquet.schema_arrow.names]
            batches = take_rows(parquet, names, offsets)
            return [chain for batch in batches for chain in _chains(batch)]

    try:
        return retries.with_retries(read)
    except Exception:  # it was there when it was counted; the bands are made of what can be read
        return []


def _chains(batch: pa.RecordBatch) -> Iterator[Chain]:
    if "losses" not in batch.schema.names:
        return
    has_restarts = "restarts" in batch.schema.names
    restarts = batch.column("restarts").to_pylist() if has_restarts else [0] * batch.num_rows
    for losses, again in zip(batch.column("losses"), restarts, strict=True):
        steps = losses.values
        if steps is None or not len(steps):
            continue  # it never came into a slot
        kinds = {of.name: of.type for of in steps.type}
        phases = steps.field("phase").to_pylist() if "phase" in kinds else []
        yield Chain(
            losses={
                name: steps.field(name).to_numpy(zero_copy_only=False).astype(np.float64)
                for name, kind in kinds.items()
                if pa.types.is_floating(kind)
            },
            resampled=phases.count("resample"),
            has_restarted=bool(again),
        )
