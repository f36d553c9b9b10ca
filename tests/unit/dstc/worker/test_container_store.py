"""`--store webdataset|parquet`: the same images as files, once each, whatever died or was tried."""

from __future__ import annotations

import hashlib
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dstc.errors import RunFolderError, SettingsError
from dstc.planning.settings import make_settings
from dstc.store.byte_ranges import file_of, read_stored
from dstc.store.packed_rows import unpack_rows
from dstc.store.results import read_part, read_rows_so_far
from dstc.store.stored_names import with_names
from dstc.verify import verify
from dstc.worker import shard_run, translate_shard
from dstc.worker.container_store import ContainerStore
from dstc.worker.write_results import ResultParts
from tests.hostile.local_run import LocalRun
from tests.seeded_engine import SeededEngine
from tests.stuck_engine import NotingEngine, StuckEngine
from tests.unit.dstc.one_actor import Columns, Job, MakeJob, Write

STORES = ("webdataset", "parquet")


def commit(job: Job) -> pa.Table:
    """Translates a shard and writes its part, as the actor and the write task do."""
    ResultParts(job.run).write([job.actor(job.shards[0])], None)
    return read_part(job.run, 0)


def images_of(output: Path, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """Each image and mask by the id that it has in a container."""
    found = {}
    for row in rows:
        for image in (row, *(row["samples"] or ())):
            if image["image"] is not None:
                data = read_stored(str(output / image["image"]))
                assert hashlib.sha256(data).hexdigest() == image["image_sha256"]
                found[f"{row['id']}@{image.get('sample', 0)}"] = data
        if row["result_mask"] is not None:
            data = read_stored(str(output / row["result_mask"]))
            assert hashlib.sha256(data).hexdigest() == row["result_mask_sha256"]
            found[f"{row['id']}.mask"] = data
    return found


def containers(output: Path) -> dict[str, bytes]:
    files = (path for path in (output / "images").iterdir() if path.suffix in (".tar", ".parquet"))
    return {path.name: path.read_bytes() for path in files}


def ids_in(output: Path) -> list[str]:
    """Ids of all containers together, as a reader of none but these finds them."""
    found = []
    for path in sorted((output / "images").iterdir()):
        if path.suffix == ".parquet":
            found += pq.read_table(path).column("id").to_pylist()
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found += [n.removesuffix(".png") for n in tar.getnames() if n.endswith(".png")]
    return found


@pytest.mark.parametrize("store", STORES)
def test_images_are_those_of_a_run_in_files(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob, store: str
) -> None:
    columns = good_rows(7)
    columns["content"][3] = "gone.png"
    manifest = write_manifest({**columns, "kind": pa.array(list("aabbbcc")).dictionary_encode()})
    runs = {}
    for kind in ("files", store):
        job = make_job(manifest, output=kind, store=kind, samples_per_row=2)
        runs[kind] = images_of(Path(job.run.uri), commit(job).to_pylist())
    assert runs[store] == runs["files"] and len(runs[store]) == 12
    output = Path(job.run.uri)
    (name,) = {file_of(row["image"]) for row in read_part(job.run, 0).to_pylist() if row["image"]}
    assert list(containers(output)) == [Path(name).name]
    assert not list(output.rglob("*.png")) and not (output / "stats" / "images").exists()


@pytest.mark.parametrize("store", STORES)
def test_what_ended_before_a_process_died_does_not_run_again_and_the_container_is_the_same(
    write_manifest: Write,
    good_rows: Columns,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
) -> None:
    manifest = write_manifest(good_rows(9))
    calm = make_job(manifest, output="calm", store=store)
    expected = commit(calm)
    monkeypatch.setattr(shard_run, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(translate_shard, "BEAT_EVERY_S", 0.01)
    gate, seen = threading.Event(), list[str]()

    dying = make_job(
        manifest, make_engine=lambda slots: StuckEngine(slots, "row/007", gate), store=store
    )
    output = Path(dying.run.uri)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(dying.actor, dying.shards[0])
        end = time.monotonic() + 20
        while not (saved := read_rows_so_far(dying.run, 0)) or saved[0].num_rows < 8:
            assert time.monotonic() < end and not call.done()
            time.sleep(0.01)
        assert len(images_of(output, saved[0].append_column("id", [saved[1]]).to_pylist())) == 8
        assert not (output / "images").exists(), "nothing that a reader takes for whole"
        # As another process would, while the first one hangs.
        fresh = make_job(manifest, make_engine=lambda slots: NotingEngine(slots, seen), store=store)
        again = commit(fresh)
        assert seen == ["row/007"]
        gate.set()
        late = call.result(20)
    assert containers(output) == containers(Path(calm.run.uri))
    assert again.column("image") == expected.column("image")
    # What was thought dead comes late, and changes nothing.
    ResultParts(dying.run).write([late], None)
    assert containers(output) == containers(Path(calm.run.uri))
    assert read_part(fresh.run, 0).column("image") == expected.column("image")
    assert not list((output / "stats" / "images").iterdir())


@pytest.mark.parametrize("store", STORES)
def test_a_retried_row_joins_the_others_and_the_old_container_goes(
    write_manifest: Write, good_rows: Columns, images: Path, tmp_path: Path, store: str
) -> None:
    columns = good_rows(6)
    late = tmp_path / "late.png"
    columns["content"][2] = str(late)
    run = LocalRun(write_manifest(columns), tmp_path / "run", rows_per_shard=6)
    run.translate(store=store)
    before = containers(run.output)
    assert ids_in(run.output) == [i for n, i in enumerate(columns["id"]) if n != 2]
    late.write_bytes((images / "p0.png").read_bytes())
    run.seen.clear()
    run.translate(store=store, retry="rejected")
    assert run.seen == [columns["id"][2]]
    assert ids_in(run.output) == columns["id"]
    assert len(containers(run.output)) == 1 and not containers(run.output).keys() & before.keys()
    assert verify(str(run.output)).is_whole


def test_another_seed_takes_the_place_of_a_flagged_image(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    manifest, jobs = write_manifest(good_rows(12)), []
    for retry in (None, "flagged"):
        jobs.append(
            make_job(
                manifest,
                make_engine=lambda slots: (
                    SeededEngine(jobs[-1].task.settings, slots)
                    if jobs
                    else SeededEngine(make_settings(manifest="m", output="o"), slots)
                ),
                set={"gate_structure": "0.5"},
                store="webdataset",
                retry=retry,
            )
        )
        rows = commit(jobs[-1]).to_pylist()
        output = Path(jobs[-1].run.uri)
        assert len(images_of(output, rows)) == 12
        assert sorted(ids_in(output)) == sorted(row["id"] for row in rows)
        assert len(containers(output)) == 1
    assert any(row["retries"] for row in rows)


@pytest.mark.parametrize("store", STORES)
def test_verify_finds_what_is_wrong_with_containers_and_the_rows_run_again(
    write_manifest: Write, good_rows: Columns, tmp_path: Path, store: str
) -> None:
    run = LocalRun(write_manifest(good_rows(12)), tmp_path / "run")
    run.translate(store=store)
    whole = containers(run.output)
    assert verify(str(run.output)).is_whole and len(whole) == 3
    gone, cut, _ = (run.output / "images" / name for name in sorted(whole))
    gone.unlink()
    third = read_part(run.folder, 1).to_pylist()[2]
    end = int(third["image"].rpartition("-")[2])
    cut.write_bytes(cut.read_bytes()[:end])  # the third image lacks its last byte
    stray = run.output / "images" / cut.name.replace("00001-", "00002-")
    stray.write_bytes(b"of an attempt whose part was never written")
    kinds = [fault.kind for fault in verify(str(run.output)).faults]
    assert sorted(kinds) == ["foreign_container", *["missing_image"] * 6]
    assert len(verify(str(run.output), quick=True).faults) == 7
    assert verify(str(run.output), repairs=True).rows_to_run == 6
    run.seen.clear()
    run.translate(store=store)
    assert sorted(run.seen) == [f"row/{number:03d}" for number in (0, 1, 2, 3, 6, 7)]
    assert containers(run.output) == whole
    assert verify(str(run.output)).is_whole


def test_changed_bytes_in_a_container_are_found(
    write_manifest: Write, good_rows: Columns, tmp_path: Path
) -> None:
    run = LocalRun(write_manifest(good_rows(4)), tmp_path / "run")
    run.translate(store="webdataset")
    (file,) = (run.output / "images").glob("*.tar")
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(bytes(data))
    (fault,) = verify(str(run.output)).faults
    assert fault.kind == "changed_image" and fault.place.startswith(f"images/{file.name}#bytes=512")


def test_a_double_that_ends_first_takes_nothing_from_the_row_of_its_id(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    columns = good_rows(8)
    columns["id"][4:6] = ["row/001", None]
    job = make_job(write_manifest(columns), rows=4, store="webdataset")
    store = ContainerStore(job.run, "webdataset", has_masks=False)
    (doubled,) = job.actor(job.shards[1]).to_pylist()
    (first,) = job.actor(job.shards[0]).to_pylist()
    rows = unpack_rows(first["rows"])
    files = images_of(Path(job.run.uri), rows.to_pylist())
    names = {row["image"]: f"images/{row['id']}.png" for row in rows.to_pylist()}
    for row in rows.to_pylist():
        store.put(row["id"], names[row["image"]], files[f"{row['id']}@0"])
    rejected = unpack_rows(doubled["rows"])
    rejected = rejected.filter(pc.is_valid(rejected.column("reason")))
    assert rejected.column("reason").to_pylist() == ["duplicate_id", "bad_id"]
    store.finish(1, rejected)
    assert store.finish(0, with_names(rows, names)).column("image") == rows.column("image")


def test_appended_rows_get_containers_of_their_own(
    write_manifest: Write, good_rows: Columns, tmp_path: Path
) -> None:
    run = LocalRun(write_manifest(good_rows(6)), tmp_path / "run")
    run.translate(store="parquet")
    write_manifest(good_rows(9))
    run.translate(store="parquet", append=True)
    assert sorted(ids_in(run.output)) == good_rows(9)["id"]
    assert verify(str(run.output)).is_whole


def test_a_run_keeps_to_its_store(
    write_manifest: Write, good_rows: Columns, tmp_path: Path
) -> None:
    run = LocalRun(write_manifest(good_rows(4)), tmp_path / "run")
    run.translate(store="webdataset")
    with pytest.raises(RunFolderError, match=r'output\.store: there "webdataset", here "parquet"'):
        run.plan(store="parquet")
    with pytest.raises(RunFolderError, match=r"output: there .*webdataset.*, here nothing"):
        run.plan()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rows_per_shard": 1}, "--rows-per-shard 1: a container for each image.*--store files"),
        (
            {"rows_per_shard": 100_000, "samples_per_row": 4},
            r"containers of up to 4\.6 GiB \(400,000 images of 64 x 64.*--rows-per-shard 43690 or",
        ),
    ],
)
def test_shards_that_make_no_container_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=f"--store webdataset, .*{told}"):
        make_settings(manifest="m.parquet", output="out", store="webdataset", **options)
