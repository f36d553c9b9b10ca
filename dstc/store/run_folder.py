"""Paths of the run folder: where a run keeps its settings, images, results and counts.

job.json                  settings, preset in full, weights, manifest identity, fingerprint
images/3f/<id>.png        two hex digits of a hash of the id spread the keys
samples/1/3f/<id>.png     further images of a row, by their numbers
retries/1/3f/<id>.png     images by other seeds that took the place of flagged ones
masks/3f/<id>.png         images of labels that were carried over
results/part-00000.parquet
images/00000-<sum>.tar    or .parquet, with `--store`: all images of a shard
stats/00000.json          timings and attempts of one shard; 00000.arrow: its rows so far
stats/images/             with `--store`: images of its rows so far
stats/ledger.arrow        counts of finished shards
progress.json             how far the run is; lease.json: which driver is at work
summary.json  report.html
pilot.json                with `--pilot`: which stage it is in, and of which arguments
_pilot.parquet  pilot/    rows of the pilot, and its run folder; no file of a manifest around it
student/                  what `dstc distil` made of it
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from dstc.store import storage, urls

CONTAINERS = {"webdataset": "tar", "parquet": "parquet"}
"""How containers of images end, by `--store`."""

ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif"}
"""How the names of images end, by format."""

OF_A_PILOT = frozenset(["pilot.json", "_pilot.parquet", "pilot", "student", "progress.json"])
"""Names that a folder may hold before there is a job.json, where the run begins with a pilot."""

_CONTAINER = re.compile(r"(?:stats/)?images/(\d{5,9})-[0-9a-f]{16}\.(?:tar|parquet)")
_PART = re.compile(r"part-(\d{5,9})\.parquet")


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        uri: the folder, a local path or any fsspec URL.
        ending: of the names of its images.
    """

    uri: str
    ending: str = "png"

    @property
    def job(self) -> str:
        """URI of the run's settings, preset, weights and manifest."""
        return urls.join(self.uri, "job.json")

    @property
    def results(self) -> str:
        """Folder of the result parts."""
        return urls.join(self.uri, "results")

    @property
    def summary(self) -> str:
        """Counts of the finished run."""
        return urls.join(self.uri, "summary.json")

    @property
    def progress(self) -> str:
        """URI of the run's progress."""
        return urls.join(self.uri, "progress.json")

    @property
    def lease(self) -> str:
        """URI of the lease, which names the driver at work."""
        return urls.join(self.uri, "lease.json")

    @property
    def ledger(self) -> str:
        """Counts of finished shards."""
        return urls.join(self.uri, "stats", "ledger.arrow")

    @property
    def report(self) -> str:
        """The page that `dstc report` writes."""
        return urls.join(self.uri, "report.html")

    @property
    def pilot_record(self) -> str:
        """URI of what is known of the run's pilot (`store/pilot_record.py`)."""
        return urls.join(self.uri, "pilot.json")

    @property
    def pilot_manifest(self) -> str:
        """URI of the rows of the run's pilot."""
        return urls.join(self.uri, "_pilot.parquet")

    @property
    def pilot_run(self) -> str:
        """URI of the pilot's run folder."""
        return urls.join(self.uri, "pilot")

    @property
    def student(self) -> str:
        """URI of the folder of the student that the pilot has made."""
        return urls.join(self.uri, "student")

    def image_name(self, row_id: str) -> str:
        """Path of a row's image, relative to the run folder."""
        return self.sample_name(row_id, 0)

    def sample_name(self, row_id: str, sample: int) -> str:
        """Path of one of a row's images, relative to the run folder; 0 is *the* image."""
        name = self._spread(row_id)
        return f"samples/{sample}/{name}" if sample else f"images/{name}"

    def retry_name(self, row_id: str, retry: int) -> str:
        """Path of the image by a row's other seed `retry`, 1 or more; relative to the folder.

        Not that of the image it takes the place of: until the part names the new one, the old one
        is the row's.
        """
        return f"retries/{retry}/{self._spread(row_id)}"

    def mask_name(self, row_id: str) -> str:
        """Path of the image of a row's labels, relative to the run folder."""
        return f"masks/{_spread(row_id, 'png')}"

    def _spread(self, row_id: str) -> str:
        return _spread(row_id, self.ending)

    def image(self, row_id: str) -> str:
        """URI of a row's image."""
        return urls.join(self.uri, self.image_name(row_id))

    def part(self, shard: int) -> str:
        """URI of a shard's result rows."""
        return urls.join(self.uri, self.part_name(shard))

    def part_name(self, shard: int) -> str:
        """Path of a shard's result rows, relative to the run folder."""
        return f"results/part-{shard:05d}.parquet"

    def stats(self, shard: int) -> str:
        """URI of a shard's timings and attempts."""
        return urls.join(self.uri, "stats", f"{shard:05d}.json")

    def rows_so_far(self, shard: int) -> str:
        """URI of the rows that have ended in a shard at work."""
        # Not a .parquet: a reader that takes all such files below the folder would count it twice.
        return urls.join(self.uri, "stats", f"{shard:05d}.arrow")

    def parts(self) -> list[int]:
        """Numbers of the shards whose part exists, ascending."""
        numbers = map(_number_of, storage.list_names(self.results))
        return sorted(number for number in numbers if number is not None)

    def part_sizes(self) -> dict[int, int]:
        """The shards whose part exists, ascending, and the bytes of each."""
        sizes = storage.list_sizes(self.results).items()
        found = ((_number_of(name), size) for name, size in sizes)
        return dict(sorted((number, size) for number, size in found if number is not None))

    def containers(self) -> list[str]:
        """Containers of images of shards, relative to the run folder."""
        names = storage.list_names(urls.join(self.uri, "images"))
        return [f"images/{name}" for name in names if is_container(f"images/{name}")]

    def foreign_parts(self) -> list[str]:
        """Names of Parquet files among the parts that are none: readers take them for parts."""
        names = storage.list_names(self.results)
        return [name for name in names if name.endswith(".parquet") and _number_of(name) is None]


def container_name(shard: int, data: bytes, store: str) -> str:
    """Path of a container of a shard's images, relative to the run folder.

    Args:
        shard: its number. data: of the container. store: "webdataset" or "parquet".
    """
    # 64 bits of the sum: of one shard there are a few containers at most.
    return f"images/{shard:05d}-{hashlib.sha256(data).hexdigest()[:16]}.{CONTAINERS[store]}"


def is_container(name: str) -> bool:
    """Whether a path in the run folder is that of a container, of a shard or of its rows so far."""
    return _CONTAINER.fullmatch(name) is not None


def container_shard(name: str) -> int | None:
    """Number of the shard whose images a container holds; None for other names."""
    found = _CONTAINER.fullmatch(name)
    return int(found[1]) if found else None


def _number_of(name: str) -> int | None:
    """Number of the shard whose part has this name."""
    match = _PART.fullmatch(name)
    # With more zeros than `part_name` writes, it would be a second part of the shard.
    is_part = match and f"part-{int(match[1]):05d}.parquet" == name
    return int(match[1]) if match and is_part else None


def _spread(row_id: str, ending: str) -> str:
    # Object stores split load by key prefix; ids often share theirs.
    return f"{hashlib.sha256(row_id.encode()).hexdigest()[:2]}/{row_id}.{ending}"
