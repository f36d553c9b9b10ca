"""Checks a manifest before it costs anything: columns, rows, images, what a run would cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dstc.engines.registry import find_engine
from dstc.manifests.check_images import Looked, check_images
from dstc.manifests.check_rows import check_rows
from dstc.manifests.findings import Finding, Findings
from dstc.manifests.schema_faults import schema_faults
from dstc.planning.cost import estimate
from dstc.planning.settings import Settings
from dstc.planning.workers import likely_device
from dstc.store.manifest import Manifest, open_manifest

# Rows that a dry run looks at: some seconds.
_DRY_ROWS = 100_000


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        uri: of the manifest. schema: what is wrong with its files and columns; where anything is,
            nothing else was looked at.
        rows: of the manifest. findings: about rows. images: what was read of them.
        cost: what a run of all rows would take, as one line.
    """

    uri: str
    schema: list[str]
    rows: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)
    images: dict[str, Any] = dataclasses.field(default_factory=dict)
    cost: str | None = None

    @property
    def has_bad_rows(self) -> bool:
        """Whether a run would reject a row."""
        return any(finding.is_fault for finding in self.findings)


def check_manifest(settings: Settings, images: int | None = 100) -> Checked:
    """Checks columns, then each row, then the images of some rows or of all.

    Args:
        settings: of the run to be; its manifest, preset and what rows may name.
        images: of so many rows, evenly spread; None: of all; 0: none.

    Raises:
        ManifestError: there is no manifest.
    """
    faults = schema_faults(settings.manifest, settings.columns)
    if faults:
        return Checked(settings.manifest, faults)
    manifest = open_manifest(
        settings.manifest,
        settings.rows_per_shard,
        limit=settings.limit,
        columns=settings.columns,
    )
    findings = Findings()
    looked = _look(manifest, settings, images, findings)
    return Checked(
        uri=settings.manifest,
        schema=[],
        rows=manifest.rows,
        findings=findings.all(),
        images=looked.facts(),
        cost=_cost(manifest, settings),
    )


def check_first_rows(manifest: Manifest) -> list[Finding]:
    """Findings about the rows of an opened manifest, at most 100,000 of them, no image opened."""
    findings = Findings()
    first = dataclasses.replace(manifest, rows=min(manifest.rows, _DRY_ROWS))
    for _ in check_rows(first, findings):
        pass
    return findings.all()


def _look(manifest: Manifest, settings: Settings, images: int | None, findings: Findings) -> Looked:
    preset = settings.resolved_preset
    rows = check_rows(manifest, findings)
    if images is not None:
        step = max(1, manifest.rows // images) if images else manifest.rows + 1
        kept = [row for number, row in enumerate(rows) if images and number % step == 0]
        rows = iter(kept[:images])
    return check_images(
        rows, manifest.folder, settings.inputs, preset.image_size, preset.fit, findings
    )


def _cost(manifest: Manifest, settings: Settings) -> str | None:
    cost = find_engine(settings.engine).cost
    if cost is None:
        return None
    device = likely_device(settings)
    found = estimate(
        cost(settings, "prompt" in manifest.schema.names),
        manifest.rows,
        device,
        settings.precision,
    )
    unit = "GPU" if device == "cuda" else "core"
    return f"{found.device_hours:,.3g} {unit}-hours ({found.basis})"
