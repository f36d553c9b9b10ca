"""Nothing written is lost: parts, images and manifests that are not what they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.cli import main
from dstc.errors import ManifestError, RunFolderError
from dstc.store.results import parse_part, write_part
from dstc.verify import verify
from dstc.worker.read_shards import ManifestShards
from tests.hostile.case import Case
from tests.hostile.local_run import LocalRun

KIND = "Parts"
ROWS = 10

DAMAGED = [
    Case(KIND, "half_a_part", "a part was cut in half", "done"),
    Case(KIND, "empty_part", "a part has no bytes", "done"),
    Case(KIND, "part_of_fewer_rows", "a part is readable, and its last row is missing", "done"),
    Case(KIND, "part_of_more_rows", "a row was written a second time to its part", "done"),
    Case(KIND, "part_is_gone", "a part was deleted that the ledger knows", "done"),
    Case(KIND, "part_is_a_text", "a part was replaced by a text", "done"),
    Case(KIND, "changed_byte", "one byte of a part changed, at the same size", "done"),
    Case(KIND, "row_lost_in_the_middle", "a part lost a row from its middle", "done"),
    Case(KIND, "id_doubled", "a row took the place of another in its part", "done"),
    Case(KIND, "part_of_another_shard", "a part was copied over another", "done"),
    Case(KIND, "prompt_changed", "a prompt changed in a part", "done"),
    Case(KIND, "unknown_status", "a row has a status that there is not", "done"),
    Case(KIND, "image_is_gone", "an image was deleted", "done"),
    Case(KIND, "image_changed", "an image was replaced by another", "done"),
    Case(KIND, "image_outside", "a row names a file outside the run as its image", "done"),
]
# After these `dstc translate` alone sees that something is wrong; the others cost a whole reading.
SEEN_AT_ONCE = {
    "half_a_part",
    "empty_part",
    "part_of_fewer_rows",
    "part_of_more_rows",
    "part_is_gone",
    "part_is_a_text",
    "row_lost_in_the_middle",
}
KINDS = {
    "half_a_part": {"damaged_part"},
    "empty_part": {"damaged_part"},
    "part_of_fewer_rows": {"lost_row"},
    "part_of_more_rows": {"doubled_id"},
    "part_is_gone": {"missing_part"},
    "part_is_a_text": {"damaged_part"},
    "changed_byte": {"damaged_part"},
    "row_lost_in_the_middle": {"lost_row"},
    "id_doubled": {"doubled_id", "lost_row"},
    "part_of_another_shard": {"doubled_id", "foreign_row", "lost_row"},
    "prompt_changed": {"changed_row"},
    "unknown_status": {"bad_status"},
    "image_is_gone": {"missing_image"},
    "image_changed": {"changed_image"},
    "image_outside": {"changed_image"},
}


@pytest.fixture
def local_run(tmp_path: Path, good_rows: Callable[[int], dict[str, list[Any]]]) -> LocalRun:
    return LocalRun(write(tmp_path / "manifest.parquet", good_rows(ROWS)), tmp_path / "run")


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    """A manifest in which two prompts can change places without a trace in the footer."""
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    return path


def rewrite(run: LocalRun, shard: int, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Changes the rows of a part, as a tool would that knows nothing of what it says of itself."""
    table = parse_part(run.part(shard).read_bytes(), "part")
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run.part(shard), compression="zstd")


def damage(run: LocalRun, name: str) -> None:
    part, images = run.part(1), sorted((run.output / "images").rglob("*.png"))
    data = part.read_bytes()
    if name == "half_a_part":
        part.write_bytes(data[: len(data) // 2])
    elif name == "empty_part":
        part.write_bytes(b"")
    elif name == "part_is_gone":
        part.unlink()
    elif name == "part_is_a_text":
        part.write_bytes(b"404 Not Found")
    elif name == "changed_byte":
        # In the pages, behind the first header: the footer is at the end.
        part.write_bytes(data[:120] + bytes([data[120] ^ 1]) + data[121:])
    elif name == "part_of_fewer_rows":
        rewrite(run, 1, lambda rows: rows.pop())
    elif name == "part_of_more_rows":
        rewrite(run, 1, lambda rows: rows.append(rows[1]))
    elif name == "row_lost_in_the_middle":
        rewrite(run, 1, lambda rows: rows.pop(1))
    elif name == "id_doubled":
        rewrite(run, 1, lambda rows: rows.__setitem__(2, rows[1]))
    elif name == "part_of_another_shard":
        shutil.copyfile(run.part(0), part)
    elif name == "prompt_changed":
        rewrite(run, 1, lambda rows: rows[2].update(prompt="another"))
    elif name == "unknown_status":
        rewrite(run, 1, lambda rows: rows[2].update(status="dome"))
    elif name == "image_is_gone":
        images[0].unlink()
    elif name == "image_changed":
        shutil.copyfile(images[1], images[0])
    elif name == "image_outside":
        rewrite(run, 1, lambda rows: rows[2].update(image="../manifest.parquet"))


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case.name)
def test_what_is_damaged_is_found_named_and_made_again(local_run: LocalRun, case: Case) -> None:
    assert local_run.translate().done == ROWS
    calm = local_run.rows()
    assert verify(str(local_run.output)).is_whole
    local_run.seen.clear()
    damage(local_run, case.name)

    found = verify(str(local_run.output))
    assert {fault.kind for fault in found.faults} == KINDS[case.name]
    assert not found.is_whole and found.rows_to_run is None
    if case.name in SEEN_AT_ONCE:
        (named,) = local_run.plan().damaged
        assert named.startswith("results/part-00001.parquet: ")
    else:
        repaired = verify(str(local_run.output), repairs=True)
        assert repaired.faults == found.faults and repaired.rows_to_run
    assert local_run.translate().done == ROWS
    assert local_run.rows() == calm
    assert verify(str(local_run.output)).is_whole
    whole = case.name in ("half_a_part", "empty_part", "part_is_gone", "part_is_a_text")
    most = 4 if whole or case.name in ("changed_byte", "part_of_another_shard") else 1
    most = 0 if case.name == "part_of_more_rows" else most
    assert len(local_run.seen) == most, "good rows are not made again"


KEPT = [
    Case(KIND, "limit_and_retry", "`--limit 4 --retry failed` on a finished run", "kept"),
    Case(KIND, "lower_limit", "a lower `--limit` than before", "kept"),
    Case(KIND, "late_write_of_fewer_rows", "a late write would leave fewer rows", "kept"),
    Case(KIND, "late_write_of_an_older_attempt", "an older attempt at a shard writes late", "kept"),
    Case(KIND, "parts_without_digests", "a run was begun before parts had digests", "kept"),
    Case(KIND, "swapped_prompts", "two prompts of the manifest swapped", "refused: exit 2"),
    Case(KIND, "swapped_while_read", "the same, while the run reads", "refused: exit 2"),
    Case(KIND, "replaced_while_read", "the manifest replaced while it is read", "refused: exit 2"),
    Case(KIND, "swapped_and_wanted", "swapped prompts, and `dstc verify --repair`", "done"),
    Case(KIND, "part_copied", "a copy of a part lies beside it", "kept"),
    Case(KIND, "no_manifest", "the manifest is gone: `dstc verify` says so", "kept"),
]
CASES = [*DAMAGED, *KEPT]


def fail_rows(run: LocalRun, *places: int) -> None:
    """Makes rows of the first part failed ones, as if storage had not answered."""

    def change(rows: list[dict[str, Any]]) -> None:
        for place in places:
            rows[place].update(status="failed", reason="fetch_error", image=None)

    rewrite(run, 0, change)


def one_shard(run: LocalRun) -> LocalRun:
    return LocalRun(run.manifest, run.output, rows_per_shard=16)


def test_limit_and_retry(local_run: LocalRun) -> None:
    run = one_shard(local_run)
    run.translate()
    calm = run.rows()
    fail_rows(run, 1, 7)
    run.seen.clear()
    summary = run.translate(limit=4, retry="failed")
    assert (summary.rows, summary.done, summary.failed) == (ROWS, ROWS - 1, 1)
    assert run.seen == ["row/001"], "row 7 is beyond the limit, and stays as it is"
    assert [row["status"] for row in run.rows()].count("'failed'") == 1
    assert run.translate(retry="failed").done == ROWS
    assert run.rows() == calm and verify(str(run.output)).is_whole


def test_lower_limit(local_run: LocalRun) -> None:
    run = one_shard(local_run)
    for limit, expected in ((6, 6), (2, 6), (8, 8), (None, ROWS)):
        assert run.translate(limit=limit).done == expected
        assert verify(str(run.output)).is_whole
    assert sorted(run.seen) == [f"row/{row:03d}" for row in range(ROWS)], "each once"


def test_late_write_of_fewer_rows(local_run: LocalRun) -> None:
    local_run.translate()
    before = local_run.part(0).read_bytes()
    rows = parse_part(before, "part")
    assert write_part(local_run.folder, 0, rows.slice(0, 3)).num_rows == 4
    assert local_run.part(0).read_bytes() == before


def test_late_write_of_an_older_attempt(local_run: LocalRun) -> None:
    local_run.translate()
    late = parse_part(local_run.part(0).read_bytes(), "part")
    fail_rows(local_run, 1)
    local_run.translate(retry="failed")
    before = local_run.part(0).read_bytes()
    write_part(local_run.folder, 0, late)
    assert local_run.part(0).read_bytes() == before


def test_parts_without_digests(local_run: LocalRun) -> None:
    local_run.translate(limit=6)
    for shard in (0, 1):
        rows = parse_part(local_run.part(shard).read_bytes(), "part")
        pq.write_table(rows.replace_schema_metadata(None), local_run.part(shard))
    ledger = Path(local_run.folder.ledger)
    with pa.ipc.open_stream(ledger.read_bytes()) as reader:
        table = reader.read_all().drop_columns(["size", "digest"])
    with pa.OSFile(str(ledger), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert local_run.translate().done == ROWS
    assert len(local_run.seen) == ROWS, "no row was made twice"
    assert verify(str(local_run.output)).is_whole


def swap(run: LocalRun) -> None:
    """Two prompts change places: the same size, the same footer."""
    columns = pq.read_table(run.manifest).to_pydict()
    before = run.manifest.read_bytes()
    prompts = columns["prompt"]
    prompts[1], prompts[2] = prompts[2], prompts[1]
    write(run.manifest, columns)
    after = run.manifest.read_bytes()
    assert before != after and before[-600:] == after[-600:]


SWAPPED = r"'row/001': prompt was 'text 1', and is 'text 2' now"


def test_swapped_prompts(local_run: LocalRun, capsys: pytest.CaptureFixture[str]) -> None:
    local_run.translate(limit=6)
    swap(local_run)
    with pytest.raises(ManifestError, match=SWAPPED):
        local_run.translate()
    with pytest.raises(SystemExit) as ended:
        main(["translate", str(local_run.manifest), str(local_run.output), "--engine", "fake",
              "--rows-per-shard", "4", "--slots", "3", "--dry-run"])  # fmt: skip
    assert ended.value.code == 2 and "part-00000.parquet was made from" in capsys.readouterr().err
    found = verify(str(local_run.output))
    assert [fault.kind for fault in found.faults] == ["changed_row", "changed_row"]


def test_swapped_while_read(local_run: LocalRun) -> None:
    local_run.translate()
    fail_rows(local_run, 3)
    plan = local_run.plan(retry="failed")
    swap(local_run)
    # The plan is of before; the actor compares what it reads with what the part was made from.
    (read,) = ManifestShards(plan.manifest, plan.pending, plan.duplicates).get_read_tasks(1)
    local_run.plan = lambda **options: plan  # type: ignore[method-assign]
    with pytest.raises(ManifestError, match=SWAPPED):
        local_run.translate()
    assert list(read())


def test_replaced_while_read(
    local_run: LocalRun, good_rows: Callable[[int], dict[str, list[Any]]]
) -> None:
    plan = local_run.plan()
    columns = good_rows(ROWS)
    columns["prompt"][3] = "another"
    write(local_run.manifest, columns)
    (read,) = ManifestShards(plan.manifest, plan.pending, plan.duplicates).get_read_tasks(1)
    with pytest.raises(ManifestError, match="it was replaced while the run read it"):
        list(read())


def test_swapped_and_wanted(local_run: LocalRun) -> None:
    local_run.translate()
    swap(local_run)
    local_run.seen.clear()
    assert verify(str(local_run.output), repairs=True).rows_to_run == 2
    assert local_run.translate().done == ROWS
    assert sorted(local_run.seen) == ["row/001", "row/002"]
    assert verify(str(local_run.output)).is_whole


@pytest.mark.parametrize("name", ["part-00000 (copy).parquet", "part-000000.parquet"])
def test_part_copied(local_run: LocalRun, name: str) -> None:
    local_run.translate()
    shutil.copyfile(local_run.part(0), local_run.part(0).with_name(name))
    assert local_run.translate().rows == ROWS
    (fault,) = verify(str(local_run.output)).faults
    assert (fault.kind, fault.place) == ("foreign_part", f"results/{name}")


def test_no_manifest(local_run: LocalRun) -> None:
    local_run.translate()
    local_run.manifest.unlink()
    found = verify(str(local_run.output))
    assert [fault.kind for fault in found.faults] == ["changed_manifest"]
    assert (found.rows, found.images) == (ROWS, ROWS), "parts and images are compared all the same"
    with pytest.raises(RunFolderError, match="bring it back first"):
        verify(str(local_run.output), repairs=True)


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_every_case_has_its_test(case: Case) -> None:
    assert f"test_{case.name}" in globals()


def test_verify_tells_programs_and_people(
    local_run: LocalRun, capsys: pytest.CaptureFixture[str]
) -> None:
    local_run.translate()
    for arguments in (["--json"], ["--quick"], []):
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(local_run.output), *arguments])
        assert ended.value.code == 0
    damage(local_run, "image_is_gone")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(local_run.output), "--json", "--quick"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and not told["is_whole"]
    assert [fault["kind"] for fault in told["faults"]] == ["missing_image"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(local_run.output), "--repair"])
    told_people = capsys.readouterr().out
    assert ended.value.code == 1 and "1 rows; the next `dstc translate`" in told_people
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(local_run.output / "nothing")])
    assert ended.value.code == 2
