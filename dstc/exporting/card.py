"""The card of a data set on the Hugging Face Hub: what made it, and under which licenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from dstc.exporting.finished_run import FinishedRun
from dstc.text import redact, shown

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(
    run: FinishedRun, left_out: Mapping[str, int], rows: Mapping[str, int], classes: Sequence[str]
) -> str:
    """README.md of the data set: YAML that the Hub reads, and text for people.

    Args:
        left_out: rows that are no items, by reason. rows: of each split. classes: all labels.
    """
    count = sum(rows.values())
    size = next((name for most, name in _SIZES if count < most), "n>1M")
    head = {
        "license": "other",
        "size_categories": [size],
        "tags": ["synthetic", "image-to-image"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in rows
                ],
            }
        ],
    }
    job = run.job
    preset = job.part("preset")
    lines = [
        "# Translated images",
        "",
        f"{count:,} images made by `dstc translate`, run `{job.text('run_id')}`, begun "
        f"{job.text('created')}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| preset | {shown(preset.get('name'))}, {shown(preset.get('image_size'))} pixels |",
        f"| fingerprint | `{job.text('fingerprint')}` |",
        f"| seed | {shown(job.part('settings').get('seed'))} |",
        f"| splits | {', '.join(f'{name}: {number:,}' for name, number in rows.items())} |",
        *([f"| classes | {', '.join(map(shown, classes))} |"] if classes else []),
        *(
            [f"| left out | {', '.join(f'{n:,} {why}' for why, n in left_out.items())} |"]
            if left_out
            else []
        ),
        "",
        "The images are made by a model. What a label says holds for the content that an image was",
        "made from; the column `flagged` names rows whose losses exceed the preset's limits.",
        "",
        "## Licenses",
        "",
        "The images are derived from the contents and styles of the run's manifest, whose licenses",
        "this card does not know: name them here before you publish. The networks:",
        "",
        "| network | file | sha256 | license |",
        "| --- | --- | --- | --- |",
        *(
            "| "
            + " | ".join(_cell(weights.get(name)) for name in ("name", "file", "sha256", "licence"))
            + " |"
            for weights in job.values.get("weights") or []
            if isinstance(weights, dict)
        ),
        "",
    ]
    return "---\n" + yaml.safe_dump(head, sort_keys=False) + "---\n\n" + "\n".join(lines)


def _cell(value: object) -> str:
    return redact(shown(value)).replace("|", "\\|").replace("\n", " ")
