"""The job from and to object storage: a real S3 server, a real Ray, the fake engine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.evaluate import EvaluateOptions, evaluate
from dstc.planning.settings import Settings, make_settings
from dstc.run_handle import open_run
from dstc.store import storage
from dstc.store.byte_ranges import read_stored
from dstc.store.manifest import open_manifest
from dstc.translate import OK, SOME_FAILED, run
from dstc.verify import verify
from tests.fault_proxy import FaultProxy
from tests.outcomes import outcome, without_times
from tests.ray_session import RAY_WARNINGS, result_rows
from tests.s3_server import S3, environment, free_ports

pytest_plugins = ["tests.s3_server"]
pytestmark = [pytest.mark.usefixtures("s3", "ray_session"), RAY_WARNINGS]

ROWS = 22


def settings_of(manifest: str | Path, output: str | Path, **values: Any) -> Settings:
    defaults = {"engine": "fake", "rows_per_shard": 4, "slots": 3, "allow_private_hosts": True}
    return make_settings(manifest=str(manifest), output=str(output), **{**defaults, **values})


def dstc(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dstc.cli", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class WebServer:
    """Serves a folder over HTTP on loopback; what `is_forbidden` says is answered 403."""

    def __init__(self, folder: Path) -> None:
        self.is_forbidden = lambda path: False
        owner = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if owner.is_forbidden(self.path):
                    self.send_error(403)
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web(images: Path) -> Iterator[WebServer]:
    server = WebServer(images)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A data set: `data.parquet`, whose URIs are relative, and the images in `photos/`."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(images, folder / "photos")
    rows = range(ROWS)
    columns = {
        "id": [f"row/{n:03d}" for n in rows],
        "content": [f"photos/p{n % 6}.png" for n in rows],
        "style": [None if n % 3 else "photos/p1.png" for n in rows],
        "prompt": [f"text {n}" if n % 3 else None for n in rows],
        "label": list(rows),
    }
    columns["content"][20:] = ["photos/gone.png", "photos/broken.png"]
    pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=9)
    return folder


def with_content(data: Path, content: dict[int, str]) -> bytes:
    """The data set's manifest with other images in some rows."""
    table = pq.read_table(data / "data.parquet")
    place = table.schema.get_field_index("content")
    values = table.column(place).to_pylist()
    values = [content.get(row, value) for row, value in enumerate(values)]
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(place, "content", pa.array(values)), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def there(s3: S3, data: Path) -> str:
    """The data set on S3."""
    return s3.put_folder(data, "data")


@pytest.fixture(scope="module")
def finished(s3: S3, there: str, ray_session: None) -> Settings:
    """A run from S3 to `run` on S3, done."""
    settings = settings_of(f"{there}/data.parquet", s3.uri("run"))
    assert run(settings) == OK
    return settings


def test_a_run_from_and_to_s3_leaves_what_a_local_run_leaves(
    s3: S3, data: Path, finished: Settings, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    assert run(settings_of(data / "data.parquet", local)) == OK
    remote = s3.download("run", tmp_path / "remote")
    rows, images = outcome(local)
    assert outcome(remote) == (rows, images)
    assert len(images) == 20
    counts = json.loads((remote / "summary.json").read_text())
    assert (counts["done"], counts["rejected"], counts["failed"]) == (20, 2, 0)


def test_the_run_folder_on_s3_holds_the_documented_names_and_no_others(
    s3: S3, finished: Settings
) -> None:
    keys = {key for key in s3.list("run") if key != "report.html"}
    note = "images/README.md"
    images = {key for key in keys if key.startswith("images/")} - {note}
    shards = range(-(-ROWS // 4))
    assert keys - images == {
        *("job.json", "progress.json", "summary.json", "stats/ledger.arrow", note),
        *(f"results/part-{shard:05d}.parquet" for shard in shards),
        *(f"stats/{shard:05d}.json" for shard in shards),
    }
    documented = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for key in keys:
        name = key.split("/")[0] if "/" in key else key
        assert name in documented, f"{key} is not in docs/results.md"
    # 20 hashes fall on 256 prefixes: on fewer than 10 in one case of 10^10.
    spread = {re.fullmatch(r"images/([0-9a-f]{2})/row/\d{3}\.png", key)[1] for key in images}  # type: ignore[index]
    assert len(images) == 20
    assert len(spread) >= 10


def test_the_same_command_again_writes_nothing(s3: S3, finished: Settings) -> None:
    before = s3.modified("run")
    with (
        FaultProxy(s3.server.port) as proxy,
        environment({**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        assert run(finished) == OK
        written = [r.path for r in proxy.requests if r.method not in ("GET", "HEAD")]
        assert proxy.count("GET .*/run/job.json") > 0, "the command went through the proxy"
    assert s3.modified("run") == before
    # Who works on the folder may be noted, and taken back.
    assert [path for path in written if "/lease.json" not in path] == []


def test_results_open_in_place_and_the_report_is_written_there(s3: S3, finished: Settings) -> None:
    filesystem, path = fsspec.core.url_to_fs(finished.output, use_listings_cache=False)
    table = pq.read_table(f"{path}/results", filesystem=filesystem, columns=["id", "status"])
    assert table.num_rows == ROWS

    done = dstc("report", finished.output)
    assert (done.returncode, done.stdout.strip()) == (OK, f"{finished.output}/report.html")
    assert b"</html>" in s3.get("run/report.html")


def test_a_run_on_s3_is_evaluated_there(s3: S3, there: str, images: Path) -> None:
    settings = settings_of(f"{there}/data.parquet", s3.uri("judged"), limit=8)
    assert run(settings) == OK
    sink = pa.BufferOutputStream()
    shown = [(images / f"p{n % 6}.png").read_bytes() for n in range(24)]
    reference = pa.table({"png": shown, "style": [str(n % 2) for n in range(24)]})
    pq.write_table(reference, sink)
    options = EvaluateOptions(
        settings.output,
        clip="none",
        segmentation="foreground",
        reference=s3.put("data/reference.parquet", sink.getvalue().to_pybytes()),
        style_column="label",
    )
    found = evaluate(options)
    assert found["statuses"] == {"done": 8} and found["unmeasured"] == 0
    assert found["metrics"]["mask_iou"]["count"] == 8
    assert found["metrics"]["style_right"]["count"] == 2, "rows 0 and 1 want a style that is known"
    assert found["sets"] is None, "eight images are too few"
    keys = {key for key in s3.list("judged") if key.startswith("metrics")}
    assert keys == {
        "metrics.json",
        *(f"metrics/{kind}-{n:05d}.parquet" for kind in ("part", "features") for n in range(2)),
        "metrics/reference-00000.parquet",
    }
    before = s3.modified("judged")
    assert evaluate(options) == found
    after = s3.modified("judged")
    assert {key for key in keys if before[key] != after[key]} <= {"metrics.json"}


def test_images_in_containers_on_s3_are_read_and_mended(
    s3: S3, there: str, finished: Settings
) -> None:
    settings = settings_of(f"{there}/data.parquet", s3.uri("stored"), store="parquet")
    assert run(settings) == OK
    keys = [key for key in s3.list("stored") if key.startswith("images/")]
    assert len(keys) == 1 + 20 // 4, "one object for each shard with images, and the note"
    ours, theirs = (
        {row_id: image.tobytes() for row_id, image in open_run(output).images()}
        for output in (settings.output, finished.output)
    )
    assert ours == theirs and len(ours) == 20
    assert verify(settings.output).is_whole
    gone = f"{settings.output}/{keys[0]}"
    with pytest.raises(FileNotFoundError):
        read_stored(f"{gone}#bytes=999999-1000000")
    storage.remove(gone)
    found = verify(settings.output, repairs=True)
    assert [fault.kind for fault in found.faults] == ["missing_image"] * 4
    assert run(settings) == OK
    assert verify(settings.output).is_whole
    assert [key for key in s3.list("stored") if key.startswith("images/")] == keys


def test_a_served_report_writes_nothing_into_the_bucket(s3: S3, finished: Settings) -> None:
    before = s3.modified("run")
    command = [sys.executable, "-m", "dstc.cli", "report", finished.output, "--serve", "--port=0"]
    with FaultProxy(s3.server.port) as proxy:
        variables = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint}
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as served:
            try:
                assert served.stdout is not None
                url = served.stdout.readline().split()[0]
                with urllib.request.urlopen(url, timeout=60) as answer:
                    page = answer.read().decode()
            finally:
                served.send_signal(signal.SIGINT)
        asked = {request.method for request in proxy.requests}
        assert proxy.count("GET .*/run/results/part-00000") > 0, "it read through the proxy"
    assert f"all {ROWS} rows that ended" in page
    assert asked <= {"GET", "HEAD"} and s3.modified("run") == before
    assert served.returncode == OK


def test_failed_rows_are_retried_and_their_neighbors_stay(
    s3: S3, data: Path, there: str, web: WebServer, tmp_path: Path
) -> None:
    manifest = with_content(data, {5: f"{web.url}/p2.png?signature=abc"})
    settings = settings_of(s3.put("data/retried.parquet", manifest), s3.uri("retried"))
    web.is_forbidden = lambda path: path.startswith("/p2.png")
    assert run(settings) == SOME_FAILED
    first = result_rows(s3.download("retried", tmp_path / "first"))
    assert [row["reason"] for row in first if row["status"] == "failed"] == ["fetch_error"]
    before = s3.modified("retried")

    web.is_forbidden = lambda path: False
    assert run(settings) == SOME_FAILED, "without --retry a failed row stays as it is"
    assert run(settings.model_copy(update={"retry": "failed"})) == OK
    after = s3.modified("retried")
    second = result_rows(s3.download("retried", tmp_path / "second"))
    assert second[5]["status"] == "done"
    assert without_times(second[:5] + second[6:]) == without_times(first[:5] + first[6:])
    changed = {key for key in after if before.get(key) != after[key]}
    assert {key for key in changed if key.startswith(("results/", "images/"))} == {
        "results/part-00001.parquet",
        second[5]["image"],
    }


def test_many_manifests_and_images_from_several_places_are_read(
    s3: S3, there: str, web: WebServer, tmp_path: Path
) -> None:
    content = [
        "../data/photos/p0.png",
        s3.uri("data/photos/p1.png"),
        f"{web.url}/p2.png",
        f"{web.url}/gone.png",
        s3.uri("data/photos/gone.png"),
        "s3://no-such-bucket-anywhere/p0.png",
        "../data/photos/p3.png",
    ]
    columns = {"id": [f"n{n}" for n in range(7)], "content": content, "prompt": ["a text"] * 7}
    for number, rows in enumerate((slice(0, 4), slice(4, 7))):
        part = pa.table({name: values[rows] for name, values in columns.items()})
        pq.write_table(part, tmp_path / "some.parquet")
        s3.put(f"many/{number}.parquet", (tmp_path / "some.parquet").read_bytes())

    assert run(settings_of(s3.uri("many"), s3.uri("many-run"), max_rejected=0.5)) == OK
    rows = result_rows(s3.download("many-run", tmp_path / "run"))
    assert [row["id"] for row in rows] == columns["id"]
    gone = "missing_picture"
    assert [row["reason"] for row in rows] == [None, None, None, gone, gone, gone, None]
    # A glob that names the same files is the same manifest.
    assert run(settings_of(s3.uri("many/*.parquet"), s3.uri("many-run"))) == SOME_FAILED


def test_a_manifest_is_read_over_http(data: Path) -> None:
    web = WebServer(data)
    try:
        manifest = open_manifest(f"{web.url}/data.parquet", 4)
        (file,) = manifest.files
        assert (manifest.rows, file.name, manifest.shards) == (ROWS, "data.parquet", 6)
    finally:
        web.stop()


@pytest.fixture
def trouble(s3: S3, data: Path, there: str) -> Callable[[str], tuple[list[str], dict[str, str]]]:
    """Arguments and environment of a command that cannot work, by what is wrong."""

    def of(what: str) -> tuple[list[str], dict[str, str]]:
        manifest, output = f"{there}/data.parquet", s3.uri("never")
        nowhere = f"s3://no-such-{uuid.uuid4().hex[:8]}"
        secret = {"AWS_SECRET_ACCESS_KEY": f"planted{uuid.uuid4().hex}"}
        return {
            "no bucket of the manifest": ([f"{nowhere}/data.parquet", output], {}),
            "no bucket of the output": ([manifest, f"{nowhere}/run"], {}),
            "nobody at the endpoint": (
                [manifest, output],
                {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}"},
            ),
            "wrong secret": ([manifest, output], secret),
            "wrong secret, local manifest": ([str(data / "data.parquet"), output], secret),
            "wrong addressing": ([manifest, output], {"DSTC_S3_ADDRESSING": "sideways"}),
        }[what]

    return of


@pytest.mark.parametrize(
    "what",
    [
        "no bucket of the manifest",
        "no bucket of the output",
        "nobody at the endpoint",
        "wrong secret",
        "wrong secret, local manifest",
        "wrong addressing",
    ],
)
def test_storage_that_cannot_be_used_ends_in_one_clear_line(
    s3: S3, trouble: Callable[[str], tuple[list[str], dict[str, str]]], what: str
) -> None:
    arguments, variables = trouble(what)
    # A person waits for it: 5 to 10 s here. The limit of `dstc` only ends what never would.
    done = dstc("translate", *arguments, "--engine", "fake", **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    for secret in (s3.secret_key, s3.access_key, variables.get("AWS_SECRET_ACCESS_KEY", "none")):
        assert secret not in done.stderr + done.stdout


# --- nothing secret is written --------------------------------------------------------------------

# What an environment of a job may hold besides the keys of S3.
_OTHER_SECRETS = ("HF_TOKEN", "AZURE_STORAGE_KEY", "GOOGLE_API_KEY", "DATABASE_PASSWORD")


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                yield path, path.read_bytes()


def test_no_secret_is_in_anything_a_run_leaves_behind(
    s3: S3, data: Path, there: str, web: WebServer, tmp_path: Path
) -> None:
    others = {name: f"{name.lower()}-{uuid.uuid4().hex}" for name in _OTHER_SECRETS}
    signature, password = uuid.uuid4().hex, uuid.uuid4().hex
    web.is_forbidden = lambda path: "Signature" in path
    content = {
        1: f"{web.url}/p1.png?X-Amz-Signature={signature}",  # refused by its server
        2: f"http://user:{password}@127.0.0.1:{web.port}/p1.png",  # refused by us
        3: s3.uri("data/photos/gone.png"),
    }
    manifest = s3.put("data/secret.parquet", with_content(data, content))
    output = s3.uri("secret")

    # Short, for Ray's sockets in it must not have names above 107 bytes.
    ray_folder = Path(tempfile.mkdtemp(prefix="ds-"))
    try:
        command = ["translate", manifest, output, "--engine", "fake", "--allow-private-hosts"]
        done = dstc(*command, **others, RAY_TMPDIR=str(ray_folder), RAY_BACKEND_LOG_LEVEL="debug")
        assert done.returncode == SOME_FAILED, done.stderr
        report = dstc("report", output, **others)
        assert report.returncode == OK, report.stderr
        ray_logs = [(path, data) for path, data in files_below(ray_folder) if "logs" in path.parts]
        assert len(ray_logs) > 10, "Ray has logged into the folder that is searched"
        left = [*files_below(ray_folder)]
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    run_folder = s3.download("secret", tmp_path / "run")
    names = {path.name for path in run_folder.iterdir()}
    assert {"job.json", "progress.json", "summary.json", "report.html"} <= names

    rows = result_rows(run_folder)
    reasons = [row["reason"] for row in rows[1:4]]
    assert reasons == ["fetch_error", "bad_uri", "missing_picture"]
    # The contract: a manifest's own columns are copied as they are, so what a person writes into
    # `content` is in `content` again, and nowhere else.
    assert {row: rows[row]["content"] for row in content} == content
    added = [{name: value for name, value in row.items() if name != "content"} for row in rows]
    for part in (run_folder / "results").iterdir():
        part.unlink()  # compressed; read above
    said = "".join(each.stdout + each.stderr for each in (done, report))
    left += files_below(run_folder)
    left += [(Path("results"), json.dumps(added).encode()), (Path("terminal"), said.encode())]

    assert sum(len(data) for _, data in left) > 10_000
    keys = [s3.secret_key, s3.access_key, *others.values(), signature, password]
    found = [(str(path), key) for path, data in left for key in keys if key.encode() in data]
    assert found == []
