"""Rows, metrics and losses by look: the style image and the prompt that rows share."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from dstc.reporting.flags import FLAGGED, flags_of, has_flags
from dstc.reporting.loss_bands import Bands, bands_of, read_chains
from dstc.reporting.measures import read_measures
from dstc.reporting.metrics_table import better
from dstc.reporting.parts import THREADS, Place, open_part
from dstc.store import retries
from dstc.store.ledger import MADE_BY
from dstc.store.results import DONE
from dstc.store.run_folder import RunFolder

# Looks that are shown, and rows of each whose chains are read: about as many chains as the bands
# of the whole run are made of.
MAX_LOOKS, _CHAINS = 12, 32
# With more, as where each row has a prompt of its own, looks tell nothing.
_MOST = 1000
_COLUMNS = ("id", "style", "prompt", "status", MADE_BY)
Key = tuple[str, str]


@dataclass
class Look:
    """Rows of one style and one prompt; either may be empty.

    Attributes:
        rows, missed, flagged: how many, without an image, with a flag. made_by: of those with an
            image, by what made it; empty where no student had a part.
        sums: metric -> (sum, rows) of those measured. worst: metrics in which no look is worse.
        places: of at most `_CHAINS` rows, drawn alike of all. bands: of their losses.
    """

    style: str
    prompt: str
    rows: int = 0
    missed: int = 0
    flagged: int = 0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    worst: set[str] = field(default_factory=set)
    made_by: Counter[str] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)
    bands: Bands = field(default_factory=Bands)

    @property
    def name(self) -> str:
        """Style and prompt as one text."""
        return ", ".join(filter(None, [self.style, self.prompt])) or "(neither style nor prompt)"

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric."""
        return {name: total / count for name, (total, count) in self.sums.items()}


def read_looks(run: RunFolder, parts: Sequence[tuple[int, int]]) -> tuple[list[Look], int]:
    """The looks of a run, those first of whose rows the largest share is missing or flagged.

    Args:
        parts: (shard, rows) of the parts of results.

    Returns:
        At most `MAX_LOOKS` of them, and how many there are; none where rows share no look, or all
        have the same.
    """
    looks: dict[Key, Look] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda part: _read_part(run, *part), parts):
            for key, look in found.items():
                _add(looks.setdefault(key, Look(*key)), look)
            if len(looks) > _MOST:
                return [], len(looks)
    if not 1 < len(looks) < sum(look.rows for look in looks.values()):
        return [], len(looks)
    order = sorted(
        looks.values(), key=lambda look: (-(look.missed + look.flagged) / look.rows, -look.rows)
    )
    for name in dict.fromkeys(name for look in order for name in look.sums):
        if better(name) and len(have := [look for look in order if name in look.sums]) > 1:
            sign = 1 if better(name) == "higher" else -1
            min(have, key=lambda look: sign * look.means[name]).worst.add(name)
    shown = order[:MAX_LOOKS]
    for look in shown:
        look.bands = bands_of(read_chains(run, sorted(look.places)))
    return shown, len(order)


def _add(look: Look, more: Look) -> None:
    look.rows += more.rows
    look.missed += more.missed
    look.flagged += more.flagged
    look.made_by += more.made_by
    look.places = _sample(look.places + more.places)
    for name, (total, count) in more.sums.items():
        before = look.sums.get(name, (0.0, 0))
        look.sums[name] = (before[0] + total, before[1] + count)


def _sample(places: Sequence[Place]) -> list[Place]:
    """The places whose checksums are the smallest: of samples of parts, a sample of the whole."""
    return sorted(places, key=lambda place: zlib.crc32(b"%d %d" % place))[:_CHAINS]


def _read_part(run: RunFolder, shard: int, rows: int) -> dict[Key, Look]:
    try:
        return retries.with_retries(lambda: _looks_of(run, shard, rows))
    except Exception:  # it was there when it was counted; looks are made of what can be read
        return {}


def _looks_of(run: RunFolder, shard: int, rows: int) -> dict[Key, Look]:
    with open_part(run, shard) as parquet:
        schema = parquet.schema_arrow
        names = [name for name in _COLUMNS if name in schema.names]
        names += [FLAGGED] if has_flags(schema) else []
        table = parquet.read(columns=names)
    columns = {name: table[name].to_pylist() for name in names}
    nothing = [None] * table.num_rows
    offsets: dict[Key, list[int]] = defaultdict(list)
    pairs = zip(columns.get("style", nothing), columns.get("prompt", nothing), strict=True)
    for offset, pair in enumerate(pairs):
        style, prompt = ("" if text is None else str(text).strip() for text in pair)
        offsets[style, prompt].append(offset)
    measures = read_measures(run, shard, rows)
    if measures and measures.ids is not None and measures.ids.to_pylist() != columns.get("id"):
        measures = None  # of another run
    flags, makers = columns.get(FLAGGED, nothing), columns.get(MADE_BY, nothing)
    looks = {}
    for key, places in offsets.items():
        statuses = Counter(columns["status"][offset] for offset in places)
        looks[key] = look = Look(
            *key,
            rows=len(places),
            missed=len(places) - statuses[DONE],
            flagged=sum(bool(flags_of(flags[offset])) for offset in places),
            made_by=Counter(filter(None, (makers[offset] for offset in places))),
            places=_sample([(shard, offset) for offset in places]),
        )
        for name, numbers in measures.numbers.items() if measures else ():
            known = numbers[places][np.isfinite(numbers[places])]
            if len(known):
                look.sums[name] = (float(known.sum()), len(known))
    return looks
