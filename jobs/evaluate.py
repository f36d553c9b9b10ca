"""`dstc evaluate`: measures the pictures of a run, finished or not, as a Ray Data job.

    shards with results and without measures -> MeasureShard actors -> metrics/part-*.parquet
    all parts of metrics                     -> metrics.json, a table

Run again, it measures what is new. `docs/evaluation.md` says what the numbers mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from dstc_engine.errors import DstcError
from dstc_engine.presets import Preset
from jobs.errors import JobError, SettingsError
from jobs.evaluation.measure_shard import MeasureShard
from jobs.evaluation.plan import Judging, preset_of, record_of, unmeasured
from jobs.evaluation.summary import print_summary, summarise
from jobs.ray_session import own_error_in, running_ray
from jobs.reporting.record import Record
from jobs.store import storage
from jobs.store.results import read_part
from jobs.store.run_folder import RunFolder


@dataclass(frozen=True)
class EvaluateOptions:
    """The arguments of `dstc evaluate`.

    Attributes:
        output: the run folder. dino, clip: names of the networks that judge; None: the preset's
            own, "none": measure nothing with one.
        truth: column of ground-truth pictures; None: `truth`, where the results have one.
        actors: processes that measure. device: "auto", "cuda" or "cpu".
        address: of a running Ray cluster; None starts one here, unless RAY_ADDRESS is set.
    """

    output: str
    dino: str | None = None
    clip: str | None = None
    truth: str | None = None
    actors: int = 1
    device: str = "auto"
    address: str | None = None


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measures what is not measured yet, and tells about the whole.

    Returns:
        What metrics.json holds.

    Raises:
        RunFolderError: the folder holds no run.
        SettingsError: no such column. WeightsError: networks that are not there.
        JobError: the job broke; the same command continues it.
    """
    storage.refuse_credentials(options.output, "output")
    run = RunFolder(storage.absolute(options.output).rstrip("/") or "/")
    job = record_of(run)
    preset = preset_of(job, run)
    shards = run.parts()
    judging = judging_of(options, preset, _truth_column(options, run, shards))
    pending = unmeasured(run, judging, shards)
    if pending:
        _measure(run, judging, pending, options)
    summary = summarise(run, judging, shards, _expected(job))
    print_summary(summary)
    return summary


def judging_of(options: EvaluateOptions, preset: Preset, truth: str | None) -> Judging:
    """What measures: the preset's own networks unless others are named."""
    clips = preset.clips if preset.guides("clip") else ()
    dino = {None: preset.dino, "none": ""}.get(options.dino, options.dino)
    clip = {None: clips[-1] if clips else "", "none": ""}.get(options.clip, options.clip)
    return Judging(
        dino=str(dino),
        dino_size=preset.dino_size,
        dino_layer=preset.dino_layer if dino == preset.dino else -1,
        clip=str(clip),
        truth=truth,
        image_size=preset.image_size,
        fit=preset.fit,
    )


def _truth_column(options: EvaluateOptions, run: RunFolder, shards: list[int]) -> str | None:
    columns = set(read_part(run, shards[0]).column_names) if shards else set()
    if options.truth is None:
        return "truth" if "truth" in columns else None
    if shards and options.truth not in columns:
        raise SettingsError(
            f"--truth: found {options.truth!r}; expected a column of the results, one of "
            + ", ".join(sorted(columns))
        )
    return options.truth


def _expected(job: Record) -> int | None:
    rows = job.part("manifest").get("rows")
    return rows if isinstance(rows, int) else None


def _measure(run: RunFolder, judging: Judging, shards: list[int], options: EvaluateOptions) -> None:
    with running_ray(options.address or os.environ.get("RAY_ADDRESS")):
        gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        wants_gpu = options.device == "cuda" or (options.device == "auto" and gpus > 0)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        dataset = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            MeasureShard,
            fn_constructor_args=(
                run.uri,
                judging,
                "cuda" if wants_gpu else "cpu",
                int(os.environ.get("OMP_NUM_THREADS") or 1),
            ),
            batch_size=1,
            batch_format="pyarrow",
            num_gpus=1 if wants_gpu else None,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=min(options.actors, len(shards))),
        )
        try:
            measured = sum(len(batch["shard"]) for batch in dataset.iter_batches())
        except DstcError:
            raise
        except Exception as error:  # Ray wraps and re-raises in a dozen unrelated types
            own = own_error_in(error)
            if own is not None:
                raise own from error
            lines = str(error).strip().splitlines() or ["no message"]
            raise JobError(
                f"the evaluation broke: {storage.redact(lines[-1])}. What is measured is kept; the "
                "same command continues"
            ) from error
        assert measured == len(shards), f"{measured} of {len(shards)} shards were measured"
