"""`dstc evaluate`: measures the images of a run, finished or not, as a Ray Data job.

    shards with results and without measures -> MeasureShard actors -> metrics/part-*.parquet
    all parts of metrics                     -> metrics.json, a table

Run again, it measures what is new. `docs/evaluation.md` says what the numbers mean.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
import ray.data

from dstc.errors import JobError, SettingsError
from dstc.evaluation.load_models import foreground_level
from dstc.evaluation.measure_shard import MeasureShard, MeasureTask
from dstc.evaluation.plan import (
    EvaluationConfig,
    identity_of,
    preset_of,
    read_table,
    record_of,
    reference_part,
    unmeasured,
)
from dstc.evaluation.reference import CHUNK, MOST, fit_classifier, read_reference
from dstc.evaluation.summary import print_summary, summarize_metrics
from dstc.ray_session import choose_device, cluster_gpus, job_error, running_ray
from dstc.reporting.throughput import finite
from dstc.store import retries, storage, urls, weights_bucket
from dstc.store.json_record import Record, read_record
from dstc.store.results import part_columns
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact
from dstc_engine.errors import DstcError
from dstc_engine.networks import networks_of
from dstc_engine.presets import Preset

if TYPE_CHECKING:
    from dstc_engine.metrics.style_classifier import StyleClassifier


@dataclass(frozen=True)
class EvaluateOptions:
    """The arguments of `dstc evaluate`.

    Attributes:
        output: the run folder. dino, clip: names of the networks that measure; None: the preset's
            own, "none": measure nothing with one.
        identity: name of the face network; None: the preset's, where it guides; or "none".
        lpips: "alex=FILE", "vgg=FILE" or "squeeze=FILE" with torchvision's weights.
        segmentation: "foreground", "foreground:LEVEL", or "NETWORK=FILE" with one of torchvision's.
        masks: column of labels of the content, which stand in for the segmentation's.
        reference, where: Parquet file of real images, and values that its rows must have.
        style_column: column with the name of the wanted style, as the reference names it.
        inception: file of FID's network.
        truth: column of ground-truth images; None: `truth`, where the results have one.
        actors: processes that measure. device: "auto", "cuda" or "cpu".
        address: of a running Ray cluster; None starts one here, unless RAY_ADDRESS is set.
    """

    output: str
    dino: str | None = None
    clip: str | None = None
    identity: str | None = None
    lpips: str | None = None
    segmentation: str | None = None
    masks: str | None = None
    reference: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    style_column: str | None = None
    inception: str | None = None
    truth: str | None = None
    actors: int = 1
    device: str = "auto"
    address: str | None = None

    @property
    def cluster(self) -> str | None:
        """The address of the cluster; None starts one here."""
        return self.address or os.environ.get("RAY_ADDRESS")


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measures the shards that are not measured yet, and summarizes the whole run.

    Returns:
        What metrics.json holds.

    Raises:
        RunFolderError: the folder holds no run.
        SettingsError: no such column or file. WeightsError: networks that are not there.
        JobError: the job broke, or storage does not answer; the same command continues it.
    """
    urls.refuse_credentials(options.output, "output")
    run = RunFolder(urls.folder(options.output))
    try:
        return _evaluate(run, options)
    except OSError as error:
        reason = describe(error)
        raise JobError(
            f"storage does not answer: {reason}. What is measured is kept; the same command "
            "continues"
        ) from error


def _evaluate(run: RunFolder, options: EvaluateOptions) -> dict[str, Any]:
    job = record_of(run)
    preset = preset_of(job, run)
    shards = run.parts()
    config = evaluation_config(options, preset, _columns(options, run, shards))
    chunks = _chunks(config)
    pending = [
        *({"of_reference": True, "number": n} for n in _unseen(run, config, chunks)),
        *({"of_reference": False, "number": n} for n in unmeasured(run, config, shards)),
    ]
    # Fitting takes half a minute, and nobody looks where everything is measured.
    classifier, right = _classifier(config) if pending else (None, _right_before(run, config))
    if pending:
        task = MeasureTask(
            output=run.uri,
            config=config,
            device="cpu",
            threads=int(os.environ.get("OMP_NUM_THREADS") or 1),
            classifier=classifier,
            features_per_shard=math.ceil(MOST / max(1, len(shards), _shards_in_all(job))),
            weights=weights_bucket.bucket(),
        )
        _run_job(task, pending, options)
    summary = summarize_metrics(run, config, shards, _expected(job), chunks, right)
    print_summary(summary)
    return summary


def evaluation_config(
    options: EvaluateOptions, preset: Preset, columns: Mapping[str, str]
) -> EvaluationConfig:
    """The configuration of an evaluation: the preset's own networks unless others are named.

    Args:
        columns: of the results: truth, masks, style_column, those that are used.

    Raises:
        SettingsError: a file that is not there, or an option that lacks another.
        WeightsError: networks that are not there.
    """
    own = networks_of(preset)
    dino = {None: preset.dino, "none": ""}.get(options.dino, options.dino)
    clip = {None: own.get("clips", ("",))[-1], "none": ""}.get(options.clip, options.clip)
    face = {None: own.get("arcface", ("",))[0], "none": ""}.get(options.identity, options.identity)
    if options.segmentation:
        foreground_level(options.segmentation)  # refuses what is neither
    if options.masks and not options.segmentation:
        raise SettingsError("--masks: expected --segmentation, which labels the results, beside it")
    if options.where and not options.reference:
        raise SettingsError("--where: expected --reference, whose rows it chooses, beside it")
    files = {
        "lpips": (options.lpips or "").partition("=")[2],
        "segmentation": (options.segmentation or "").partition("=")[2],
        "inception": options.inception or "",
        "reference": options.reference or "",
    }
    if options.lpips and not files["lpips"]:
        raise SettingsError(f"--lpips: found {options.lpips!r}; expected alex=FILE, for example")
    for option, uri in files.items():
        urls.refuse_credentials(uri, f"--{option}")
    places = {option: urls.absolute(uri) if uri else "" for option, uri in files.items()}

    def placed(option: str, text: str | None) -> str:
        name, mark, _ = (text or "").partition("=")
        return f"{name}={places[option]}" if mark else name

    networks = [str(name) for name in (dino, clip, face) if name]
    return EvaluationConfig(
        dino=str(dino),
        dino_size=preset.dino_size,
        dino_layer=preset.dino_layer if dino == preset.dino else -1,
        clip=str(clip),
        truth=columns.get("truth"),
        image_size=preset.image_size,
        fit=preset.fit,
        identity=str(face),
        identity_crop=preset.identity_crop,
        lpips=placed("lpips", options.lpips),
        segmentation=placed("segmentation", options.segmentation),
        inception=places["inception"],
        reference=places["reference"],
        where=dict(options.where),
        masks=columns.get("masks"),
        style_column=columns.get("style_column"),
        sums={
            **{name: _sum_of_network(name, options) for name in networks},
            **{f"--{name}": _sum_of_file(name, uri) for name, uri in places.items() if uri},
        },
    )


def _sum_of_network(name: str, options: EvaluateOptions) -> str:
    """The sha256 of weights as published; a missing file shows here, before Ray starts."""
    from dstc_engine.weights import fetch, registry

    weights = registry.find(name)
    if weights.is_published and weights_bucket.bucket() is not None:
        description = weights_bucket.description_of(name)
        # Where it is missing, actors say so.
        return str(description["upstream_sha256"]) if description else "unknown"
    if options.cluster is None or weights.sha256 is None:
        return fetch.upstream_sum(weights)
    return weights.sha256


def _sum_of_file(option: str, uri: str) -> str:
    try:
        return hashlib.sha256(storage.read_bytes(uri, retries.STEADY)).hexdigest()
    except FileNotFoundError as error:
        raise SettingsError(f"--{option} {redact(uri)}: there is no such file") from error


def _columns(options: EvaluateOptions, run: RunFolder, shards: Sequence[int]) -> dict[str, str]:
    """Columns of the results by what they are used for."""
    asked = {
        "truth": options.truth,
        "masks": options.masks,
        "style_column": options.style_column,
    }
    found = {use: name for use, name in asked.items() if name is not None}
    if not shards:
        return found
    columns = part_columns(run, shards[0])
    for use, name in found.items():
        if name not in columns:
            raise SettingsError(
                f"--{use.replace('_', '-')}: found {name!r}; expected a column of the results, one "
                "of " + ", ".join(sorted(columns))
            )
    return found if "truth" in found or "truth" not in columns else {**found, "truth": "truth"}


def _chunks(config: EvaluationConfig) -> int:
    """Of the reference's images, those that something describes."""
    if not config.reference or not (config.dino or config.inception):
        return 0
    return math.ceil(len(read_reference(config.reference, config.where).images) / CHUNK)


def _classifier(config: EvaluationConfig) -> tuple[StyleClassifier | None, float | None]:
    """What tells the styles of the reference, and how often it is right; None where not asked."""
    if not config.reference or config.style_column is None:
        return None, None
    reference = read_reference(config.reference, config.where)
    return fit_classifier(reference, config.image_size, config.fit)


def _right_before(run: RunFolder, config: EvaluationConfig) -> float | None:
    """How often the classifier was right that measured what there is."""
    before = read_record(urls.join(run.uri, "metrics.json"), "metrics.json").values
    is_same = before.get("judging") == config.record
    return finite(before.get("classifier_right")) if is_same else None


def _unseen(run: RunFolder, config: EvaluationConfig, chunks: int) -> list[int]:
    """Chunks of the reference whose features are not there."""
    expected = {"judging": config.record}
    return [
        number
        for number in range(chunks)
        if identity_of(read_table(reference_part(run, number))) != expected
    ]


def _expected(job: Record) -> int | None:
    rows = job.part("manifest").get("rows")
    return rows if isinstance(rows, int) else None


def _shards_in_all(job: Record) -> int:
    """Of the finished run, so that each gives its share of the sets from the start."""
    per_shard = finite(job.part("settings").get("rows_per_shard"))
    return math.ceil((_expected(job) or 0) / per_shard) if per_shard else 0


def _run_job(
    task: MeasureTask, pending: Sequence[dict[str, Any]], options: EvaluateOptions
) -> None:
    with running_ray(options.cluster):
        device = choose_device(options.device, cluster_gpus())
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        context.max_consecutive_actor_init_deaths = 3
        dataset = ray.data.from_items(list(pending), override_num_blocks=len(pending)).map_batches(
            MeasureShard,
            fn_constructor_args=(replace(task, device=device),),
            batch_size=1,
            batch_format="pyarrow",
            num_gpus=1 if device == "cuda" else None,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=min(options.actors, len(pending))),
        )
        try:
            measured = sum(len(batch["number"]) for batch in dataset.iter_batches())
        except DstcError:
            raise
        except Exception as error:
            raise job_error(error, "the evaluation") from error
        assert measured == len(pending), f"{measured} of {len(pending)} tasks were done"
