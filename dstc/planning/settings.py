"""Settings of a run: checked when made, saved as part of job.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dstc.errors import SettingsError
from dstc.planning.label_columns import FORMS, LabelColumn, label_column
from dstc.store import urls
from dstc.store.input_policy import MAX_IMAGE_BYTES, InputPolicy
from dstc_engine.networks import NETWORKS
from dstc_engine.presets import Preset, get_preset, with_fields
from dstc_engine.student.names import Fallback, description_of
from dstc_engine.weights.described import is_description

Precision = Literal["fp32", "bf16", "fp16", "tf32"]
Compile = Literal["no", "default", "max-autotune-no-cudagraphs", "graphs"]
# What was measured on CPUs (docs/performance.md), and what a GPU takes unless told otherwise.
USUAL_SLOTS = 8
# Of a manifest, those that mean something here.
_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask", "seed")
# An actor holds the images of two shards, and one of the containers, in memory.
_CONTAINER_BYTES = 1 << 31
# Of a student, which has no steps: rows of one pass.
STUDENT_SLOTS = 64


def _actors(value: object) -> object:
    """ "N" or "MIN:MAX" as text, whether a number or text was given."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})(?::([1-9]\d{0,5}))?", str(value))
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise ValueError("expected N, or MIN:MAX with 1 <= MIN <= MAX")
    return str(value)


class Settings(BaseModel):
    """The arguments of `dstc translate`.

    Attributes:
        manifest: Parquet file, folder or glob; a local path or any fsspec URL.
        output: the run folder; a local path or any fsspec URL.
        columns: of the manifest, what its files call some of them: {"content": "image_path"}.
        preset: name of the preset.
        set: fields of the preset to change, as text.
        seed: of the run; a row without a seed derives its own from this one and its id.
        actors: processes that translate, one GPU each where there are GPUs: "N", or "MIN:MAX" for
            a pool that starts with MIN and grows as an autoscaling cluster brings nodes; None is
            one for each GPU, or one for each CPU core, up to 4.
        slots: images that one actor translates at once. It decides the shape of every batch, so
            it is part of what makes an image reproducible. "auto": see `auto_slots`.
        auto_slots: the run is to choose `slots` by itself: what it was begun with, else what its
            GPUs hold (`driver/slot_count.py`).
        precision: of the networks; "tf32" is for GPUs.
        compile: mode of torch.compile for the networks, "graphs" for CUDA graphs, or "no".
        deterministic: kernels that give the same bits each time, on GPUs too, or an error.
        checkpointing: the prior keeps fewer activations and computes them twice; "large": those of
            its two largest stages.
        samples_per_row: images of each row, with seeds of their own; the first is the one that
            the row has without this option.
        rows_per_shard: rows that are committed, and after a crash done again, together. 16 rows
            are minutes of work; more than 16 `slots` are fed by over two shards at once.
        limit: translate only the first rows of the manifest.
        append: the manifest may have got rows since the run began; they are translated, too.
        retry: "failed" also runs the failed rows of finished shards again; "rejected" the rejected
            ones, whose files may be there now; "flagged" the flagged ones, with another seed, and
            keeps the better image.
        max_rejected: share of the rows, 0 .. 1; where more are rejected, the exit code says so.
        row_deadline: seconds that a row may take to fetch and decode, and again in its slot; None
            is an hour, or ten minutes for each slot where that is more. Waiting does not count.
        device: "auto" takes GPUs where Ray has any at the start; "cuda" also waits for a cluster
            that brings them later.
        address: of a running Ray cluster; None starts one here, unless RAY_ADDRESS is set.
        engine: "guided", the method's; "fake", which stands in for it in tests and benchmarks of
            the job; or your own, "package.module:RECORD" (`dstc/engines/spec.py`).
        fake_step_seconds: what one step of the fake engine costs.
        student: description of a student (`dstc distil`), which translates rows of looks that it
            knows; the engine is then "student". `slots` are the rows of one of its passes.
        pilot: rows of a guided run in `output`, of which a student is made there first; `student`
            is then that one. distil: settings of its training, as text.
        rows_of: the manifest that `manifest` was taken from, whose rows may name what they may
            there; None for one that stands for itself.
        fallback: what becomes of rows whose look it does not know or whose image fails a gate:
            "guided" translates them by guidance; "flag" flags such images, "none" takes them as
            they are, and both fail rows of unknown looks.
        format: of the images. quality: 1 .. 100, of all but PNG; None is the format's own.
        restore_size: put each result back into its content, at the content's size.
        boxes, keypoints, masks: columns of labels of the content that results are to have in
            pixels of the image, each "COLUMN" or "COLUMN:FORM" (`label_columns.FORMS`).
        allow_local: folders of local images that a manifest in remote storage may name; one that
            is a local file itself may name any.
        allow_private_hosts: images may come from web servers at private and loopback addresses.
        max_image_bytes: of one image file, decoded from what the transfer made of it.
        store: where images are written: a file each, or all of a shard in one tar or Parquet file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str
    output: str
    columns: dict[str, str] = {}
    preset: str = "tiny64"
    set: dict[str, str] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    actors: Annotated[str | None, BeforeValidator(_actors)] = None
    slots: Annotated[int, Field(ge=1, le=1024)] = USUAL_SLOTS
    auto_slots: bool = False
    precision: Precision = "fp32"
    compile: Compile = "no"
    checkpointing: bool | Literal["large"] = False
    deterministic: bool = False
    samples_per_row: Annotated[int, Field(ge=1, le=256)] = 1
    rows_per_shard: Annotated[int, Field(ge=1, le=100_000)] = 16
    limit: Annotated[int, Field(ge=1)] | None = None
    append: bool = False
    retry: Literal["failed", "rejected", "flagged"] | None = None
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.1
    row_deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    address: str | None = None
    engine: Annotated[str, Field(pattern=r"^(\w+|[\w.]+:\w+)$")] = "guided"
    fake_step_seconds: Annotated[float, Field(ge=0)] = 0.0
    student: str | None = None
    fallback: Fallback = "guided"
    pilot: Annotated[int, Field(ge=1)] | None = None
    distil: dict[str, str] = {}
    rows_of: str | None = None
    format: Literal["png", "jpeg", "webp", "avif"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    restore_size: bool = False
    boxes: str | None = None
    keypoints: str | None = None
    masks: str | None = None
    allow_local: tuple[str, ...] = ()
    allow_private_hosts: bool = False
    max_image_bytes: Annotated[int, Field(ge=1)] = MAX_IMAGE_BYTES
    store: Literal["files", "webdataset", "parquet"] = "files"

    @property
    def inputs(self) -> InputPolicy:
        """What the rows of the manifest may name."""
        return InputPolicy(
            local_folders=self.allow_local,
            private_hosts=self.allow_private_hosts,
            max_bytes=self.max_image_bytes,
        ).for_manifest(self.rows_of or self.manifest)

    @property
    def label_columns(self) -> list[LabelColumn]:
        """The columns of labels to carry over.

        Raises:
            SettingsError: one is not COLUMN or COLUMN:FORM.
        """
        given = {kind: getattr(self, kind) for kind in FORMS}
        return [label_column(kind, text) for kind, text in given.items() if text is not None]

    @property
    def output_form(self) -> dict[str, object]:
        """What of the results is not as it is by default; part of the run's identity."""
        names = ("format", "quality", "restore_size", "store", *FORMS)
        values = {name: getattr(self, name) for name in names}
        default = {name: type(self).model_fields[name].default for name in names}
        return {name: value for name, value in values.items() if value != default[name]}

    @property
    def resolved_preset(self) -> Preset:
        """The preset with `set` applied.

        Raises:
            PresetError: no such preset or field, or a value out of its range.
        """
        return with_fields(get_preset(self.preset), dict(self.set))

    @property
    def actor_range(self) -> tuple[int, int] | None:
        """Fewest and most actors, or None where nothing was asked for."""
        if self.actors is None:
            return None
        fewest, _, most = self.actors.partition(":")
        return int(fewest), int(most or fewest)

    @property
    def row_deadline_s(self) -> float:
        """The row deadline in seconds; a row in one of many slots takes so many times longer."""
        return self.row_deadline or max(3600.0, 600.0 * self.slots)

    @property
    def standstill_s(self) -> float:
        """A job in which nothing moves for so long has broken.

        Ten minutes an image is far beyond any, and a row beyond its deadline is no standstill: it
        ends, or its process does.
        """
        images = self.rows_per_shard * self.samples_per_row
        return max(3600.0, 600.0 * images, 2 * self.row_deadline_s)

    @property
    def shards_at_once(self) -> int:
        """Shards that one actor works on together, so that free slots always find rows.

        The one whose last rows still run, and others with rows for all slots twice over: with one
        at a time slots are 59 to 86 % busy, with these 98 to 99 % (`benchmarks/occupancy.py`).
        """
        return max(2, 1 + -(-self.slots * 2 // (self.rows_per_shard * self.samples_per_row)))


def _absolute_networks(key: str, text: str) -> str:
    """The names of networks, which may be paths of descriptions of weights."""
    if key not in NETWORKS:
        return text
    names = [name.strip() for name in text.split(",")]
    for name in filter(is_description, names):
        urls.refuse_credentials(name, key)
    return ",".join(urls.absolute(n) if is_description(n) else n for n in names)


def _refusal(fault: Any) -> str:
    """A fault in words of ours: `--seed: found -1; expected a whole number, 0 or more`."""
    field, input_ = str(fault["loc"][0]), fault["input"]
    option = "--" + field.replace("_", "-")
    if fault["type"] == "extra_forbidden":
        return f"{option}: no such option"
    if fault["type"] == "missing":
        return f"{field}: not given"
    if fault["type"] == "value_error":  # of a validator here
        return f"{option}: found {input_!r}; {fault['ctx']['error']}"
    return f"{option}: found {input_!r}; expected {_expected(field)}"


def _expected(field: str) -> str:
    """What a field takes, read off its JSON schema."""
    schema = Settings.model_json_schema()["properties"][field]
    schema = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    text = _KINDS[schema["type"]]
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if lowest is not None and highest is not None:
        text += f", {lowest:g} to {highest:g}"
    elif lowest is not None:
        text += f", {lowest:g} or more"
    if "exclusiveMinimum" in schema:
        text += f" above {schema['exclusiveMinimum']:g}"
    if "exclusiveMaximum" in schema:
        text += f", below {schema['exclusiveMaximum']}"
    if field == "slots":
        text += ", or auto"
    if field == "engine":
        text = "a name, or package.module:RECORD"
    return text


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "KEY=VALUE pairs",
    "array": "a list",
}


def _with_student(values: Mapping[str, object]) -> dict[str, object]:
    """What `--student` makes of other arguments.

    Raises:
        SettingsError: they do not go together with it.
        StorageError: a URL with credentials inside.
    """
    student = description_of(str(values["student"]))
    urls.refuse_credentials(student, "--student")
    if (engine := values.get("engine", "guided")) not in ("guided", "student"):
        raise SettingsError(f"--student, --engine {engine}: found both; expected one of them")
    if values.get("samples_per_row", 1) != 1:
        raise SettingsError(
            f"--samples-per-row {values['samples_per_row']}: a student makes one image of a row; "
            "expected 1"
        )
    if values.get("retry") == "flagged":
        raise SettingsError(
            "--retry flagged: another seed changes no student's image; expected --fallback guided "
            "in a new run"
        )
    slots = values.get("slots")
    return {
        "student": urls.absolute(student),
        "engine": "student",
        "slots": STUDENT_SLOTS if slots in (None, "auto") else slots,
    }


def _check_containers(settings: Settings) -> None:
    """What a container holds must be more than one image, and fit an actor's memory.

    Raises:
        SettingsError: it is not so.
    """
    images, option = settings.rows_per_shard * settings.samples_per_row, f"--store {settings.store}"
    if images == 1:
        raise SettingsError(
            f"{option}, --rows-per-shard 1: a container for each image, which is dearer than a "
            "file; expected --rows-per-shard 2 or more (1024 is a good number), or --store files"
        )
    # Of no format is a file larger than its pixels. With --restore-size, contents say how many.
    side = settings.resolved_preset.image_size
    size = images * side**2 * 3
    if size > _CONTAINER_BYTES:
        most = settings.rows_per_shard * _CONTAINER_BYTES // size
        raise SettingsError(
            f"{option}, --rows-per-shard {settings.rows_per_shard}: found containers of up to "
            f"{size / 2**30:.1f} GiB ({images:,} images of {side} x {side} pixels), which an actor "
            f"holds in memory; expected {_CONTAINER_BYTES / 2**30:.0f} GiB at most: "
            f"--rows-per-shard {most} or fewer"
        )


def _with_pilot(values: Mapping[str, object]) -> dict[str, object]:
    """What `--pilot` makes of other arguments: a run by a student that is still to be made.

    Raises:
        SettingsError: they do not go together with it.
    """
    if values.get("student") is not None:
        raise SettingsError(
            "--pilot, --student: found both; expected one of them, since a pilot makes a student"
        )
    if (engine := values.get("engine", "guided")) != "guided":
        raise SettingsError(
            f"--pilot, --engine {engine}: found both; expected one of them, since guidance is the "
            "teacher"
        )
    if values.get("append"):
        raise SettingsError(
            "--pilot, --append: found both; expected one of them, since a pilot has its share of "
            "the rows that the run begins with: give another output folder, and --student with the "
            "student of this one"
        )
    if values.get("limit") is not None:
        raise SettingsError(
            f"--pilot, --limit {values['limit']}: found both; expected one of them, since the "
            "pilot has its share of every look of the manifest: for fewer rows, write a smaller "
            "manifest"
        )
    return {"student": urls.join(urls.folder(str(values["output"])), "student")}


def make_settings(**values: object) -> Settings:
    """Settings from the command line, paths made absolute.

    Raises:
        SettingsError: a value out of its range; the message names it.
        PresetError: no such preset or field.
        StorageError: a URL with credentials inside.
    """
    if values.get("pilot") is not None:
        values |= _with_pilot(values)
    elif values.get("distil"):
        raise SettingsError("--distil-set: found without --pilot; expected --pilot N with it")
    if values.get("student") is not None:
        values |= _with_student(values)
    if values.get("slots") == "auto":
        values |= {"slots": USUAL_SLOTS, "auto_slots": True}
    if values.get("slots") is None:
        values.pop("slots", None)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_refusal, error.errors()))) from None
    for name, column in settings.columns.items():
        if name not in _COLUMNS or not column:
            raise SettingsError(
                f"--column: found {name}={column}; expected NAME=COLUMN, with a NAME of "
                f"{', '.join(_COLUMNS)}, and what the manifest calls it"
            )
    urls.refuse_credentials(settings.manifest, "manifest")
    urls.refuse_credentials(settings.output, "output")
    if settings.quality is not None and settings.format == "png":
        raise SettingsError(
            f"--quality: found {settings.quality} for PNG, which loses nothing; expected "
            "--format jpeg, webp or avif with it"
        )
    if settings.store != "files":
        _check_containers(settings)
    # Refuse a bad preset or column before anything else happens.
    assert settings.resolved_preset and settings.label_columns is not None
    return settings.model_copy(
        update={
            "set": {key: _absolute_networks(key, text) for key, text in settings.set.items()},
            "manifest": urls.absolute(settings.manifest),
            "output": urls.folder(settings.output),
            "allow_local": tuple(urls.absolute(folder) for folder in settings.allow_local),
        }
    )
