"""What is in a manifest, and what a check found, as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import ManifestError
from dstc.manifests.findings import Finding
from dstc.store import storage
from dstc.store.cells import read_records
from dstc.store.manifest_files import find_manifest_files
from dstc.text import describe, redact, shown, visible

if TYPE_CHECKING:
    from dstc.manifests.check import Checked


def read_manifest(uri: str, rows: int) -> dict[str, Any]:
    """The columns, sizes and first rows of Parquet files, whether a job would take them or not.

    Args:
        uri: a file, a folder or a pattern; absolute. rows: to show.

    Raises:
        ManifestError: there is none, or it cannot be read.
    """
    _, files = find_manifest_files(uri)
    total, groups, size = 0, 0, 0
    columns: dict[str, str] = {}
    first: list[dict[str, Any]] = []
    for file, name in files:
        try:
            with storage.open_input(file) as raw, pq.ParquetFile(raw) as parquet:
                total += parquet.metadata.num_rows
                groups += parquet.metadata.num_row_groups
                size += storage.facts_of(file).get("size") or 0
                columns |= {f.name: str(f.type) for f in parquet.schema_arrow}
                if len(first) < rows:
                    batches = parquet.iter_batches(max(1, rows))
                    records = (record for batch in batches for record in read_records(batch))
                    first += islice(records, rows - len(first))
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(f"{redact(file)} ({name}): {describe(error)}") from error
    return {
        "uri": uri,
        "files": len(files),
        "rows": total,
        "row_groups": groups,
        "bytes": size,
        "columns": columns,
        "first_rows": first,
    }


def print_shown(found: dict[str, Any]) -> None:
    """Prints what `read_manifest` gave."""
    _say(f"{redact(found['uri'])}")
    _say(
        f"{found['rows']:,} rows in {found['files']:,} files, {found['row_groups']:,} row groups, "
        f"{found['bytes'] / 1e6:,.1f} MB"
    )
    width = max(map(len, found["columns"]), default=0)
    for name, kind in found["columns"].items():
        _say(f"  {name:{width}}  {kind}")
    for row in found["first_rows"]:
        _say("")
        for name, value in row.items():
            _say(f"  {name:{width}}  {shown(value)}")


def print_checked(found: Checked) -> None:
    """Prints what a check found."""
    _say(redact(found.uri))
    if found.schema:
        _say(f"not a manifest: {len(found.schema):,} faults")
        for fault in found.schema:
            _say(f"  {fault}")
        return
    looked = found.images
    _say(f"{found.rows:,} rows; images of {looked['rows']:,} were read")
    if "least" in looked:
        _say(
            "contents: {} x {} to {} x {} pixels, shorter side {:g} in the middle".format(
                *looked["least"], *looked["most"], looked["median_shorter_side"]
            )
        )
        _say(
            f"the square in their middle leaves out {looked['cut_mean']:.0%} on average, "
            f"{looked['cut_most']:.0%} at most"
        )
    if found.cost:
        _say(f"expected: {found.cost}")
    print_findings(found.findings)
    if not found.findings:
        _say("nothing is wrong")


def print_findings(findings: Sequence[Finding]) -> None:
    """Prints each kind of finding with its examples."""
    for finding in findings:
        what = "would be rejected" if finding.is_fault else "worth a look"
        rows = "1 row" if finding.rows == 1 else f"{finding.rows:,} rows"
        _say(f"{finding.reason}: {rows}, {what}")
        for example in finding.examples:
            _say(f"  {example}")


def _say(line: str) -> None:
    print(visible(line), flush=True)
