"""Engine interface: the methods that the job calls, and the record that plugs an engine in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dstc.planning.settings import Settings
from dstc.worker.shard_task import ShardTask

if TYPE_CHECKING:
    from dstc_engine.operations import Cost
    from dstc_engine.request import Translation, TranslationRequest
    from dstc_engine.step_memory import StepMemory
    from dstc_engine.weights.record import Weights


class Engine(Protocol):
    """A table of slots that are stepped together; `dstc_engine.Engine` and `FakeEngine` are two.

    Both also say `rows_underway`: the rows in slots, each by the share of its steps that is done.
    Progress between two ends of rows is read from it; an engine without it shows none.
    """

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line."""

    def step(self) -> list[Translation]:
        """One step of all busy slots; the rows that ended with it."""

    @property
    def is_finished(self) -> bool:
        """Nothing waits and nothing runs."""

    @property
    def free_slots(self) -> int:
        """Requests that would run at the next step."""

    def is_device_dead(self) -> bool:
        """Asked after a step raised; when true, only a new process can go on."""


def _no_weights(settings: Settings) -> Sequence[Weights]:
    return ()


def _as_read(settings: Settings) -> Callable[[TranslationRequest], TranslationRequest]:
    return lambda request: request


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How an engine is plugged into the job: all that the job knows of it.

    An engine of your own is a module with one such record; `--engine package.module:RECORD` takes
    it, and every node must be able to import the module:

        SHARPEN = EngineSpec(
            name="sharpen",
            make=lambda task: lambda slots: SharpenEngine(task.settings.resolved_preset, slots),
        )

    Attributes:
        name: in messages.
        make: called once in each actor; returns what builds an engine of so many slots. Networks
            are loaded here, onto `task.device`; engines are built again after a step raised.
        weights: files of weights that decide images, in the driver. Their names and sums are part
            of the run's identity, so each needs a `sha256`.
        uses_gpu: an actor gets a GPU of its own where there are any; else `task.device` is "cpu".
        prepare: called once in each actor; what it returns is given each request in a thread that
            fetches, and gives the one that the engine gets: with its images fitted, for example.
        cost: floating-point operations of a row, by settings and whether rows bring a prompt; for
            `--dry-run`. None: not told.
        slots_that_fit: for `--slots auto`, on a GPU: how many slots it holds, by settings and the
            driver's bucket of weights. None: as many as on a CPU.
        step_memory: bytes of a step on a GPU by its slots, as far as they are known beforehand; for
            `--dry-run`. None: not told.
        most_actors: more are of no use unless `--actors` asks for them.
    """

    name: str
    make: Callable[[ShardTask], Callable[[int], Engine]]
    weights: Callable[[Settings], Sequence[Weights]] = _no_weights
    uses_gpu: bool = False
    prepare: Callable[[Settings], Callable[[TranslationRequest], TranslationRequest]] = _as_read
    cost: Callable[[Settings, bool], Cost] | None = None
    slots_that_fit: Callable[[Settings, str | None], int] | None = None
    step_memory: Callable[[Settings], StepMemory | None] | None = None
    most_actors: int | None = None
