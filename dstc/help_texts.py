"""What stands below the options of each command's `--help`: examples, and exit codes."""

from __future__ import annotations

from rich.markup import escape


def _epilog(*examples: str, codes: str = "") -> str:
    # Rich sets each paragraph on its own line.
    lines = [f"[cyan]{escape(example)}[/cyan]" for example in examples]
    heading = "Examples:" if len(examples) > 1 else "Example:"
    return "\n\n".join([heading, *lines, *([f"Exit codes: {codes}"] if codes else [])])


TRANSLATE = _epilog(
    "dstc translate rows.parquet out",
    "dstc translate s3://bucket/rows.parquet s3://bucket/out --dry-run",
    "dstc translate rows.parquet out --set skip=12 --slots 4 --limit 20",
    "dstc translate rows.parquet out --pilot 500",
    "dstc translate --config run.yaml --retry failed",
    "dstc translate rows.parquet out --append",
    "dstc translate rows.parquet s3://bucket/out --store webdataset --rows-per-shard 1024",
    codes="0 every row is done, or rejected with a reason; 3 some rows failed, or more than "
    "--max-rejected were rejected; 2 arguments or manifest cannot be used; 1 the job itself broke.",
)
PRESETS = _epilog("dstc presets", "dstc presets tiny64 --set skip=12")
REPORT = _epilog(
    "dstc report out",
    "dstc report out --serve",
    "dstc report out --beside other-run",
    "dstc report out --contact-sheet sheet.png",
)
EVALUATE = _epilog(
    "dstc evaluate out", "dstc evaluate out --truth truth --lpips alex=alexnet.pth --device cpu"
)
DISTIL = _epilog("dstc distil out --out student")
EXPORT = _epilog(
    "dstc export out data --format imagefolder --label-column label",
    "dstc export out s3://bucket/data --format webdataset",
)
STATUS = _epilog("dstc status out --watch", "dstc status s3://bucket/out --json")
VERIFY = _epilog(
    "dstc verify out",
    "dstc verify s3://bucket/out --repair",
    codes="0 everything is as it was written; 1 something is not; 2 no run is there.",
)
EMOJI_BUILD = _epilog("dstc emoji build data")
MANIFEST_BUILD = _epilog(
    "dstc manifest build pics/ -o rows.parquet --style looks/*.png --pair random:2 "
    '--prompt "{label}, watercolor"',
    "dstc manifest build rows.csv -o rows.parquet --column content=image_path "
    "--column prompt=caption",
)
MANIFEST_CHECK = _epilog(
    "dstc manifest check rows.parquet --images all",
    codes="0 all rows that were looked at can be translated; 3 some cannot; 2 not a manifest.",
)
MANIFEST_SHOW = _epilog("dstc manifest show rows.parquet --rows 3 --json")
WEIGHTS_LIST = _epilog("dstc weights list --preset imagenet256-text")
WEIGHTS_FETCH = _epilog("dstc weights fetch --preset imagenet256-text")
WEIGHTS_VERIFY = _epilog("dstc weights verify")
TRAIN_PRIOR = _epilog(
    "dstc train prior --data data/emoji-64.parquet --out prior --minutes 60",
    "dstc train prior --data pics/ --out prior --from emoji64-prior --set shift=0",
)
TRAIN_ENCODER = _epilog(
    "dstc train encoder --kind vit --data data/emoji-64.parquet --out vit --minutes 60",
    "dstc train encoder --kind clip --data rows.csv --column content=photo "
    "--column caption=alt_text --out clip --from emoji64-clip",
)
