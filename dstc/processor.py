"""`build_processor`: translation as a stage of somebody's own Ray Data pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray.data

from dstc.engines.registry import find_engine
from dstc.errors import SettingsError
from dstc.planning.settings import Settings, make_settings
from dstc.ray_session import choose_device, cluster_gpus
from dstc.store import weights_bucket
from dstc.worker.translate_batch import TranslateBatch

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How a processor translates.

    Attributes:
        preset: its name. set: fields of it to change. seed: seeds rows that bring none.
        concurrency: actors: N, or (fewest, most) of a pool that grows; each has a GPU of its own
            where there are any.
        slots: images that an actor translates at once. batch_size: rows that are handed to it
            together; None is twice the slots.
        precision, device, engine: as the options of `dstc translate`.
        allow_local: folders of local files that rows may name. allow_private_hosts: rows may name
            web servers at private addresses.
    """

    preset: str = "tiny64"
    set: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    concurrency: int | tuple[int, int] = 1
    slots: int = 8
    batch_size: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    engine: str = "guided"
    allow_local: Sequence[str | os.PathLike[str]] = ()
    allow_private_hosts: bool = False

    @property
    def settings(self) -> Settings:
        """As of a run, whose manifest lies in remote storage: rows name what is allowed alone.

        Raises:
            UserError: a value out of its range; the message names it.
        """
        return make_settings(
            manifest="memory://rows",
            output="memory://rows",
            preset=self.preset,
            set={name: str(value) for name, value in self.set.items()},
            seed=self.seed,
            slots=self.slots,
            precision=self.precision,
            device=self.device,
            engine=self.engine,
            allow_local=tuple(os.fspath(folder) for folder in self.allow_local),
            allow_private_hosts=self.allow_private_hosts,
        )


def build_processor(
    config: ProcessorConfig,
    preprocess: Callable[[Row], Row] | None = None,
    postprocess: Callable[[Row], Row] | None = None,
) -> Callable[[ray.data.Dataset], ray.data.Dataset]:
    """A function that maps a Ray Dataset to one with images in it, as those of `ray.data.llm`.

    Rows have `content`, and `style`, `prompt` or both: images as bytes of a file, {bytes, path}, a
    URI, or uint8 (H, W, 3). `source_prompt`, `mask`, `seed` and `id` may be there. Rows that come
    out have all their columns and `image` (bytes of a PNG), `status` ("done", "rejected",
    "failed"), `reason`, `error` and `seed`. A bad row is such a row, no exception. Columns of
    yours with these names get `input_` before them.

    It promises less than `translate`: nothing is kept, so a pipeline that ends early begins
    anew; Ray may run a batch twice, so only what comes out counts once, not what your own stages
    do; a row that kills its process each time ends the pipeline; and images travel through Ray's
    memory.

    Args:
        config: of the processor. preprocess: makes such rows of yours. postprocess: of what comes
            out; both one row at a time.

    Raises:
        UserError: a config that cannot be used, or weights that are missing here.

    Example:
        processor = dstc.build_processor(dstc.ProcessorConfig(preset="tiny64", concurrency=2))
        images = processor(ray.data.from_items([{"content": data, "prompt": "an oil"}]))
    """
    settings = config.settings
    fewest, most = _actors(config.concurrency)
    batch_size = config.batch_size or 2 * config.slots
    spec = find_engine(settings.engine)
    assert spec.weights(settings) is not None  # refuses what is missing before anything starts

    def process(dataset: ray.data.Dataset) -> ray.data.Dataset:
        device = "cpu"
        if spec.uses_gpu:
            gpus = cluster_gpus() if ray.is_initialized() else 0
            device = choose_device(config.device, gpus)
        # As in the job: one thread each, since actors keep the cores busy.
        threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
        if preprocess is not None:
            dataset = dataset.map(preprocess)
        dataset = dataset.map_batches(
            TranslateBatch,
            fn_constructor_args=(settings, device, threads, weights_bucket.bucket()),
            batch_size=batch_size,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=1 if device == "cuda" else None,
            compute=ray.data.ActorPoolStrategy(
                min_size=fewest,
                max_size=most,
                max_concurrent_calls_per_actor=2,  # the newer batch fills the older one's slots
                max_tasks_in_flight_per_actor=4,
                enable_true_multi_threading=True,
            ),
        )
        return dataset if postprocess is None else dataset.map(postprocess)

    return process


def _actors(concurrency: int | tuple[int, int]) -> tuple[int, int]:
    fewest, most = (concurrency,) * 2 if isinstance(concurrency, int) else concurrency
    if not 1 <= fewest <= most:
        raise SettingsError(
            f"concurrency: found {concurrency!r}; expected N, or (fewest, most), from 1 up"
        )
    return fewest, most
