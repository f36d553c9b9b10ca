"""What a finished run holds, read by a plain S3 client that shares nothing with DSTC."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

_READERS = 8


@dataclass(frozen=True)
class Audit:
    """A run against its manifest.

    Attributes:
        lost: ids without a result row, or whose image is not there. doubled: ids with several rows.
        strange: ids that the manifest does not have.
        not_done: rows by status and reason that are rejected or failed.
        changed: ids whose image has not the sum that its row gives.
        sums: sha256 of each image, by id.
    """

    lost: list[str]
    doubled: list[str]
    strange: list[str]
    not_done: Counter[str]
    changed: list[str]
    sums: Mapping[str, str]

    def differences(self, calm: Audit) -> list[str]:
        """Ids whose images are not those of another run."""
        return [i for i in {*self.sums, *calm.sums} if self.sums.get(i) != calm.sums.get(i)]


def audit(client: Any, bucket: str, output: str, ids: Sequence[str]) -> Audit:
    """Reads all parts and all images of a run.

    Args:
        client: of botocore. output: key prefix of the run. ids: of the manifest.
    """

    def read(key: str) -> bytes:
        with client.get_object(Bucket=bucket, Key=f"{output}/{key}")["Body"] as body:
            return bytes(body.read())

    def sum_of(row: dict[str, Any]) -> str | None:
        try:
            return hashlib.sha256(read(row["image"])).hexdigest()
        except client.exceptions.NoSuchKey:
            return None

    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"{output}/results/part-"
    )
    keys = [item["Key"].removeprefix(f"{output}/") for p in pages for item in p.get("Contents", [])]
    columns = ["id", "status", "reason", "image", "image_sha256"]
    with ThreadPoolExecutor(_READERS) as pool:
        parts = pool.map(lambda key: pq.read_table(io.BytesIO(read(key)), columns=columns), keys)
        rows = [row for part in parts for row in part.to_pylist()]
        done = [row for row in rows if row["status"] == "done"]
        sums = {row["id"]: found for row, found in zip(done, pool.map(sum_of, done), strict=True)}
    return compare(ids, rows, sums)


def compare(
    ids: Sequence[str], rows: Sequence[dict[str, Any]], sums: Mapping[str, str | None]
) -> Audit:
    """The comparison, of what was read.

    Args:
        rows: `id`, `status`, `reason` and `image_sha256` of each result row.
        sums: of the images of rows that are done; None where there is no image.
    """
    there = Counter(row["id"] for row in rows)
    no_image = [name for name, found in sums.items() if found is None]
    return Audit(
        lost=[*(name for name in ids if name not in there), *no_image],
        doubled=[name for name, times in there.items() if times > 1],
        strange=sorted(there.keys() - set(ids)),
        not_done=Counter(f"{r['status']}: {r['reason']}" for r in rows if r["status"] != "done"),
        changed=[
            row["id"]
            for row in rows
            if row["status"] == "done" and sums[row["id"]] not in (None, row["image_sha256"])
        ],
        sums={name: found for name, found in sums.items() if found is not None},
    )
