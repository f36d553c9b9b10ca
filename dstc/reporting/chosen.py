"""Chooses the rows that the gallery shows of a run too large to show whole.

Three kinds: examples of each reason and flag, so that every filter finds something; the worst and
the best by each number; and, for the rest, rows that are evenly spread over all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from dstc.reporting.extremes import Extremes
from dstc.reporting.parts import Numbering, Place
from dstc.reporting.tally import Tally

# Shares of the room that examples, and that worst and best rows, may take at most.
_EXAMPLES, _EXTREMES = 0.3, 0.4


@dataclass(frozen=True)
class Chosen:
    """Rows for the gallery.

    Attributes:
        places: ascending. rows: of the run. spread: how many of the places are evenly spread.
        ranked: names of the numbers whose worst and best rows are among them.
    """

    places: Sequence[Place]
    rows: int
    spread: int
    ranked: Sequence[str]


def choose(tally: Tally, extremes: Extremes, most: int) -> Chosen:
    """At most `most` rows; all where there are no more."""
    numbering = Numbering(tally.parts)
    if numbering.rows <= most:
        places = numbering.spread(most)
        return Chosen(places, numbering.rows, len(places), ())
    examples = _in_turn(
        [
            *([miss.place for miss in reason.examples] for reason in tally.reasons.values()),
            *tally.flag_examples.values(),
        ]
    )
    ends = _in_turn(
        [end for name in extremes.names for end in (extremes.lowest(name), extremes.highest(name))]
    )
    chosen = dict.fromkeys(examples[: int(_EXAMPLES * most)])
    chosen |= dict.fromkeys(ends[: int(_EXTREMES * most)])
    numbers = sorted(map(numbering.number, chosen))
    spread, others = most - len(numbers), numbering.rows - len(numbers)
    evenly = [_skip(numbers, number * others // spread) for number in range(spread)]
    return Chosen(
        places=[numbering.place(number) for number in sorted(numbers + evenly)],
        rows=numbering.rows,
        spread=spread,
        ranked=extremes.names,
    )


def _in_turn(groups: Iterable[Sequence[Place]]) -> list[Place]:
    """The first of each group, then the second of each, and so on; each place once."""
    turns = zip_longest(*groups)
    return list(dict.fromkeys(place for turn in turns for place in turn if place is not None))


def _skip(taken: Sequence[int], number: int) -> int:
    """Counts `number` on from 0 past those that are taken, which are ascending."""
    for other in taken:
        if other > number:
            break
        number += 1
    return number
