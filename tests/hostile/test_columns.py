"""Columns that only travel are never opened; a bad cell of a known column is one rejected row."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dstc.errors import ManifestError
from dstc.evaluation.measure_shard import MeasureShard, MeasureTask
from dstc.evaluation.plan import EvaluationConfig, read_metrics
from dstc.report import make_report
from dstc.reporting.parts import read_rows
from dstc.store.cells import BadCell, read_cell
from dstc.store.column_types import common_type, convert, plain_type
from dstc.store.manifest import open_manifest
from dstc.store.packed_rows import pack_rows, unpack_rows
from dstc.store.results import Outcome, read_part, result_schema, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc.worker import read_shards as reading
from dstc.worker.read_shards import read_shards
from dstc_engine.presets import TINY64
from tests.hostile.case import Case
from tests.unit.dstc.one_actor import Job

KIND = "Columns"
LATIN_1 = pa.Array.from_buffers(
    pa.string(),
    3,
    [
        None,
        pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0])),
        pa.py_buffer(b"\xe9\xe8a"),
    ],
)
LATE = pa.array([253402300799000000] * 3, pa.timestamp("us", "Asia/Tokyo"))
WORDS = pa.array(["a", "b", "c"])


def _list_of(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), values)


def _case(name: str, what: str) -> Case:
    return Case(KIND, name, what, "done")


TRAVELERS: list[tuple[Case, pa.Array]] = [
    (_case("latin_1", "an extra text column holds Latin-1 bytes"), LATIN_1),
    (
        _case("latin_1_in_lists", "lists of texts that are no UTF-8"),
        _list_of(LATIN_1),
    ),
    (
        _case("string_view", "an extra column of type `string_view`"),
        pa.array(["x" * 20, None, ""], pa.string_view()),
    ),
    (
        _case("binary_view", "an extra column of type `binary_view`"),
        pa.array([b"\xff" * 20, None, b""], pa.binary_view()),
    ),
    (
        _case("views_in_lists", "views inside lists"),
        pa.array([["x" * 20], None, []], pa.list_(pa.string_view())),
    ),
    (
        _case("list_view", "a list view of views"),
        pa.array([["x" * 20], None, []], pa.list_view(pa.string_view())),
    ),
    (
        _case("struct_of_null", "a struct with a child of type null"),
        pa.array([{"a": None, "b": 1}, None, {}], pa.struct([("a", pa.null()), ("b", pa.int8())])),
    ),
    (
        _case("list_of_null", "a list of type null"),
        pa.array([[], [None], None], pa.list_(pa.null())),
    ),
    (
        _case("list_of_dictionary", "a list of dictionaries over several row groups"),
        _list_of(WORDS.dictionary_encode()),
    ),
    (
        _case("struct_of_dictionary", "a struct of dictionaries over several row groups"),
        pa.StructArray.from_arrays([WORDS.dictionary_encode()], ["word"]),
    ),
    (_case("year_9999", "9999-12-31 in a zone where it is the year 10000 already"), LATE),
    (
        _case("unknown_zone", "a timestamp of a zone that nobody knows"),
        pa.array([1, None, 3], pa.timestamp("us", "Nowhere/Else")),
    ),
    (_case("uuid", "an extension type"), pa.array([b"u" * 16, None, b"v" * 16], pa.uuid())),
    (
        _case("map_of_views", "a map whose items are views"),
        pa.array([[("k", "x" * 20)], None, []], pa.map_(pa.string(), pa.string_view())),
    ),
]
KNOWN: list[tuple[Case, dict[str, Any], str | None]] = [
    (
        Case(KIND, "id_latin_1", "an id in Latin-1", "rejected: bad_id"),
        {"id": LATIN_1[0]},
        "bad_id",
    ),
    (
        Case(KIND, "prompt_latin_1", "a prompt in Latin-1", "rejected: bad_text"),
        {"prompt": LATIN_1[0]},
        "bad_text",
    ),
    (
        Case(KIND, "mask_latin_1", "the URI of a mask in Latin-1", "rejected: bad_text"),
        {"mask": LATIN_1[0]},
        "bad_text",
    ),
    (
        Case(KIND, "id_blank", "an id of spaces", "rejected: bad_id"),
        {"id": "  "},
        "bad_id",
    ),
    (
        Case(KIND, "content_blank", "a content of one zero-width space", "rejected: no_content"),
        {"content": "\u200b"},
        "no_content",
    ),
    (
        Case(KIND, "target_blank", "style and prompt of spaces and tabs", "rejected: no_target"),
        {"style": " \t", "prompt": "\xa0"},
        "no_target",
    ),
    (_case("style_blank", "a prompt beside a style of spaces"), {"style": "  "}, None),
    (
        _case("source_prompt_blank", "a source prompt of a line's end"),
        {"source_prompt": "\n"},
        None,
    ),
    (_case("mask_blank", "a mask of spaces"), {"mask": "   "}, None),
]
CASES = [*(case for case, _ in TRAVELERS), *(case for case, *_ in KNOWN)]


def _texts(values: list[Any]) -> pa.Array:
    """A text column, some of whose cells are Arrow's, of whatever bytes."""
    data = [v.as_buffer().to_pybytes() if isinstance(v, pa.Scalar) else v for v in values]
    data = [value.encode() if isinstance(value, str) else value for value in data]
    array = pa.array(data, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers())


class Run:
    """One manifest with all of it, through one actor: translated, tried again, measured, shown."""

    def __init__(self, folder: Path) -> None:
        Image.new("RGB", (64, 64), "red").save(folder / "a.png")
        good = {"content": "a.png", "prompt": "text", "style": None, "source_prompt": None}
        rows = [{"id": f"travel/{number}", **good, "mask": None} for number in range(3)]
        rows += [{"id": case.name, **good, "mask": None, **change} for case, change, _ in KNOWN]
        self.columns = {
            case.name: pa.concat_arrays([values, pa.nulls(len(KNOWN), values.type)])
            if not pa.types.is_list_view(values.type)
            else pa.array(values.to_pylist() + [None] * len(KNOWN), values.type)
            for case, values in TRAVELERS
        }
        known = {name: _texts([row[name] for row in rows]) for name in rows[0]}
        path = folder / "m.parquet"
        pq.write_table(pa.table(known | self.columns), path, row_group_size=1)
        self.job = Job(path, folder / "run", 100)
        self.run = self.job.run
        self.first = self.job.translate()
        write_part(self.run, 0, self.first)
        record = {"preset": asdict(TINY64), "manifest": {"uri": str(path), "rows": len(rows)}}
        Path(self.run.job).write_text(json.dumps(record))

    def row(self, name: str) -> dict[str, Any]:
        place = 3 + [case.name for case, *_ in KNOWN].index(name)
        names = ("status", "reason", "error", "source_prompt")
        return {n: read_cell(self.first.column(n)[place]) for n in names}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("columns"))
    yield made
    made.job.actor.close()


@pytest.mark.parametrize(
    ("case", "values"), TRAVELERS, ids=lambda value: getattr(value, "name", "")
)
def test_it_travels_unchanged(run: Run, case: Case, values: pa.Array) -> None:
    part = read_part(run.run, 0)
    found = part.column(case.name).combine_chunks()
    expected = convert(run.columns[case.name], plain_type(values.type))
    assert found.type.equals(expected.type) and found.equals(expected)


@pytest.mark.parametrize(("case", "change", "reason"), KNOWN, ids=lambda v: getattr(v, "name", ""))
def test_a_bad_cell_of_a_known_column_is_one_row(
    run: Run, case: Case, change: dict[str, Any], reason: str | None
) -> None:
    row = run.row(case.name)
    assert (row["status"], row["reason"]) == ("rejected" if reason else "done", reason)
    if any(isinstance(value, pa.Scalar) for value in change.values()):
        assert "is '\\xe9\\xe8', not UTF-8" in row["error"]
    assert len(row["error"] or "") < 300


def test_a_finished_run_is_tried_again(run: Run) -> None:
    """`--retry` reads outcomes alone; the other columns come from the manifest."""
    statuses = run.first.column("status").to_pylist()
    statuses[0] = "failed"
    place = run.first.schema.get_field_index("status")
    field = run.first.schema.field("status")
    write_part(run.run, 0, run.first.set_column(place, field, pa.array(statuses)))
    again = run.job.translate()
    write_part(run.run, 0, run.first)
    assert again.schema.equals(run.first.schema)
    kept = [name for name in again.schema.names if name not in ("seconds", "losses")]
    assert again.select(kept).equals(run.first.select(kept))


def test_it_is_measured(run: Run) -> None:
    config = EvaluationConfig("", 64, -1, "", "year_9999", 64, "crop", style_column="latin_1")
    task = MeasureTask(run.run.uri, config, "cpu", 1, None, 10, None)
    MeasureShard(task)(pa.table({"of_reference": [False], "number": [0]}))
    measures = read_metrics(run.run, 0)
    assert measures is not None
    assert measures["status"].to_pylist() == run.first["status"].to_pylist()
    errors = measures["metrics_error"].to_pylist()
    assert "10000-01-01" in errors[0], "what is no URI is the error of its row"
    assert errors[4] is None, "a rejected row is not measured"


def test_it_is_shown(run: Run) -> None:
    rows = read_rows(run.run, [(0, number) for number in range(len(run.first))])
    assert len(rows) == 3 + len(KNOWN)
    assert rows[0]["latin_1"] == "\\xe9\\xe8" and rows[0]["year_9999"].startswith("10000-01-01")
    page = make_report(run.run.uri).decode()
    assert page.count("travel/") >= 3 and "year_9999" in page and "prompt_latin_1" in page


# -- files of one manifest -------------------------------------------------------------------------

DIFFERENT: list[tuple[str, pa.Array, pa.Array, pa.DataType]] = [
    ("null", pa.nulls(1), pa.array([{"a": [1]}]), pa.struct([("a", pa.list_(pa.int64()))])),
    ("large", pa.array(["x"]), pa.array(["y"], pa.large_string()), pa.large_string()),
    ("view", pa.array(["x"]), pa.array(["y"], pa.string_view()), pa.large_string()),
    ("dictionary", pa.array(["x"]), pa.array(["y"]).dictionary_encode(), pa.string()),
    (
        "index",
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), ["x"]),
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int64()), ["y"]),
        pa.dictionary(pa.int64(), pa.string()),
    ),
    ("integers", pa.array([1], pa.int8()), pa.array([2], pa.uint16()), pa.int32()),
    ("floats", pa.array([1.5], pa.float32()), pa.array([2.5]), pa.float64()),
    (
        "lists",
        pa.array([[]], pa.list_(pa.null())),
        pa.array([["y"]], pa.large_list(pa.large_string())),
        pa.large_list(pa.large_string()),
    ),
    (
        "structs",
        pa.array([{"a": None}], pa.struct([("a", pa.null())])),
        pa.array([{"b": 2, "a": "y"}]),
        pa.struct([("a", pa.string()), ("b", pa.int64())]),
    ),
]
CASES += [
    _case(f"files_differ_by_{name}", f"files of one manifest differ by {name} in a column")
    for name, *_ in DIFFERENT
]


def _write(path: Path, rows: int, **extra: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": [f"{path.stem}-{number}" for number in range(rows)],
        "content": ["a.png"] * rows,
        "prompt": ["text"] * rows,
    }
    pq.write_table(pa.table(columns | extra), path)
    return path


def _read(folder: Path, rows_per_shard: int = 10) -> pa.Table:
    manifest = open_manifest(str(folder), rows_per_shard)
    tables = []
    for group in manifest.groups(range(manifest.shards)):
        for _, rows in read_shards(group, manifest.schema):
            assert rows.schema.equals(manifest.schema)
            tables.append(unpack_rows(pack_rows(rows)))
    return pa.concat_tables(tables)


@pytest.mark.parametrize(("name", "one", "other", "expected"), DIFFERENT, ids=lambda v: str(v)[:20])
def test_files_that_differ_in_width_are_one_manifest(
    tmp_path: Path, name: str, one: pa.Array, other: pa.Array, expected: pa.DataType
) -> None:
    _write(tmp_path / "a.parquet", 1, x=one)
    _write(tmp_path / "b.parquet", 1, x=other)
    rows = _read(tmp_path)
    assert rows.schema.field("x").type == expected
    first = {**(one[0].as_py() or {}), "b": None} if name == "structs" else one[0].as_py()
    assert rows["x"].to_pylist() == [first, other[0].as_py()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([1], pa.int64()), pa.array([1], pa.uint64())),
        (pa.array(["x"]), pa.array([b"x"])),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("ns"))),
    ],
)
def test_what_no_type_holds_unchanged_is_refused(
    tmp_path: Path, one: pa.Array, other: pa.Array
) -> None:
    _write(tmp_path / "a.parquet", 1, x=one)
    _write(tmp_path / "b.parquet", 1, x=other)
    with pytest.raises(ManifestError, match=r"b\.parquet, column 'x': found .*; expected .*a\.par"):
        open_manifest(str(tmp_path), 1)


def test_a_column_that_a_file_lacks_is_null_there(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", 1, x=pa.array([b"u" * 16], pa.uuid()))
    _write(tmp_path / "b.parquet", 1, style=["s.png"])
    rows = _read(tmp_path)
    assert rows["x"].null_count == 1 and rows["style"].to_pylist() == [None, "s.png"]


def test_hive_folders_give_their_columns(tmp_path: Path) -> None:
    _write(tmp_path / "lang=de" / "year=2024" / "a.parquet", 2)
    _write(tmp_path / "lang=K%C3%B6lsch" / "year=2023" / "b.parquet", 1, lang=["own"])
    _write(tmp_path / "lang=007" / "year=__HIVE_DEFAULT_PARTITION__" / "c.parquet", 1)
    rows = _read(tmp_path)
    found = rows.select(["id", "lang", "year"]).to_pylist()
    assert [(row["id"], row["lang"], row["year"]) for row in found] == [
        ("c-0", "007", None),
        ("b-0", "own", 2023),
        ("a-0", "de", 2024),
        ("a-1", "de", 2024),
    ]
    _write(tmp_path / "status=done" / "d.parquet", 1)
    assert "manifest_status" in result_schema(open_manifest(str(tmp_path), 1).schema).names


def test_lists_that_arrow_cannot_read_at_once_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with more than 2 GB of text in a batch: then Arrow reads no list of texts."""
    path = _write(tmp_path / "a.parquet", 3000, x=[[str(number)] for number in range(3000)])
    sizes = []

    class Limited(pq.ParquetFile):
        def iter_batches(self, batch_size: int, **options: Any) -> Iterator[pa.RecordBatch]:
            sizes.append(batch_size)
            for number, batch in enumerate(super().iter_batches(batch_size, **options)):
                if number and batch_size > 1:
                    raise pa.ArrowNotImplementedError("Nested data conversions not implemented")
                yield batch

    monkeypatch.setattr("dstc.store.manifest.pq.ParquetFile", Limited)
    assert _read(path, 700)["x"].to_pylist() == [[str(number)] for number in range(3000)]
    assert sizes[:3] == [reading._READ_ROWS, 32, 1]


# -- any type --------------------------------------------------------------------------------------

Typed = tuple[pa.DataType, Callable[[], st.SearchStrategy[Any]]]
_MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.decimal128(9, 2), st.decimals("-9999.99", "9999.99", places=2)),
    (pa.string(), st.text(max_size=20)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.string_view(), st.text(max_size=20)),
    (pa.binary(), st.binary(max_size=5)),
    (pa.binary_view(), st.binary(max_size=20)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.timestamp("us"), _MOMENTS),
    (pa.date32(), st.dates()),
    (pa.duration("ms"), st.integers(0, 10**6).map(lambda ms: datetime.timedelta(milliseconds=ms))),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b", "c"])),
    (pa.dictionary(pa.int32(), pa.large_string()), st.sampled_from(["a", "b"])),
]


def _around(
    inner: st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    def lists(of: tuple[pa.DataType, st.SearchStrategy[Any]], make: Any) -> Any:
        return make(of[0]), st.lists(st.none() | of[1], max_size=3)

    def pairs(of: tuple[pa.DataType, st.SearchStrategy[Any]]) -> Any:
        return pa.list_(of[0], 2), st.lists(st.none() | of[1], min_size=2, max_size=2)

    def structs(of: list[tuple[pa.DataType, st.SearchStrategy[Any]]]) -> Any:
        named = {f"f{number}": part for number, part in enumerate(of)}
        values = {name: st.none() | part[1] for name, part in named.items()}
        return pa.struct([(name, part[0]) for name, part in named.items()]), st.fixed_dictionaries(
            values
        )

    def maps(of: tuple[pa.DataType, st.SearchStrategy[Any]]) -> Any:
        item = st.tuples(st.text(max_size=3), st.none() | of[1])
        return pa.map_(pa.string(), of[0]), st.lists(item, max_size=2)

    makes = st.sampled_from([pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
    return (
        st.builds(lists, inner, makes)
        | inner.map(pairs)
        | st.lists(inner, min_size=1, max_size=3).map(structs)
        | inner.map(maps)
    )


TYPES = st.recursive(st.sampled_from(LEAVES), _around, max_leaves=4)


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    """A column of any nested type, some of it null."""
    kind, values = draw(TYPES)
    made = pa.array(draw(st.lists(st.none() | values, min_size=1, max_size=7)), kind)
    try:
        made.validate(full=True)
    except pa.ArrowInvalid:  # Arrow puts index 0 of an empty dictionary under null structs
        return pa.nulls(len(made))
    return made


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(column=columns(), group=st.integers(1, 4), rows_per_shard=st.integers(1, 5))
def test_any_column_travels_unchanged(
    tmp_path_factory: pytest.TempPathFactory, column: pa.Array, group: int, rows_per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    ids = [str(number) for number in range(len(column))]
    table = pa.table({"id": ids, "content": ids, "prompt": ids, "x": column})
    path = folder / "m.parquet"
    try:
        pq.write_table(table, path, row_group_size=group)
    except pa.ArrowNotImplementedError:
        return  # Parquet has no such type
    try:
        written = [
            b
            for g in range(pq.ParquetFile(path).num_row_groups)
            for b in pq.ParquetFile(path).iter_batches(row_groups=[g], columns=["x"])
        ]
        expected = [value for batch in written for value in batch.column(0).to_pylist()]
    except pa.ArrowException:
        return  # Arrow wrote what it cannot read
    run = RunFolder(str(folder / "run"))
    manifest = open_manifest(str(path), rows_per_shard)
    found = []
    for group_ in manifest.groups(range(manifest.shards)):
        for shard, rows in read_shards(group_, manifest.schema):
            rows = unpack_rows(pack_rows(rows))
            write_part(run, shard.number, result_table(rows, [Outcome("done")] * shard.rows))
            part = read_part(run, shard.number)
            part.validate(full=True)
            assert part.schema.field("x").type.equals(manifest.schema.field("x").type)
            found += part["x"].to_pylist()
    assert found == expected


@settings(deadline=None, max_examples=100)
@given(one=columns(), other=columns())
def test_a_common_type_holds_the_values_of_both(one: pa.Array, other: pa.Array) -> None:
    one, other = (convert(values, plain_type(values.type)) for values in (one, other))
    for column in (one, other):
        column.validate(full=True)
    common = common_type(one.type, other.type)
    assert (common is None) == (common_type(other.type, one.type) is None)
    if common is None:
        return
    for column in (one, other):
        for some in (column, column.slice(1)):
            wide = convert(some, common)
            wide.validate(full=True)
            assert wide.type.equals(common) and wide.null_count == some.null_count
            if not pa.types.is_nested(common):
                assert wide.to_pylist() == some.to_pylist()


def test_cells_that_python_cannot_hold() -> None:
    cell = read_cell(LATIN_1[0])
    assert cell == BadCell("\\xe9\\xe8", "not UTF-8 (invalid continuation byte)")
    assert read_cell(LATE[0]).text.startswith("10000-01-01 08:59:59")
    assert read_cell(pa.scalar(decimal.Decimal("1.5"))) == decimal.Decimal("1.5")
