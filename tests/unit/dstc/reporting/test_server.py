"""`dstc report --serve`, with a real server on a free port."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from dstc.errors import RunFolderError, SettingsError, StorageError
from dstc.report import make_report, serve_report
from dstc.reporting.server import ReportServer
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder

Serve = Callable[[Callable[[], bytes]], ReportServer]


@pytest.fixture
def report_server() -> Iterator[Serve]:
    """Starts a server for a page; it ends with the test."""
    started: list[tuple[ReportServer, threading.Thread]] = []

    def serve(make: Callable[[], bytes]) -> ReportServer:
        server = ReportServer(make, 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        started.append((server, thread))
        return server

    yield serve
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def _ask(
    server: ReportServer, path: str = "/", method: str = "GET", host: str = ""
) -> tuple[int, str]:
    headers = {"Host": host} if host else {}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def _write(run: RunFolder, shard: int) -> None:
    rows = pa.table({"id": [f"row-{shard}"], "content": ["gone.png"], "prompt": ["x"]})
    write_part(run, shard, result_table(rows, [Outcome("failed", "fetch_error", "gone")]))


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def test_each_reload_shows_the_run_as_it_is_and_writes_nothing(
    tmp_path: Path, report_server: Serve
) -> None:
    run = RunFolder(str(tmp_path / "run"))
    _write(run, 0)
    server = report_server(lambda: make_report(run.uri))
    status, page = _ask(server)
    assert status == 200 and "row-0" in page and "row-1" not in page
    _write(run, 1)
    before = _files(tmp_path)
    status, page = _ask(server)
    assert status == 200 and "row-1" in page
    assert _files(tmp_path) == before


def test_nothing_but_the_page_is_served(report_server: Serve) -> None:
    server = report_server(lambda: b"the page")
    assert _ask(server) == (200, "the page")
    assert _ask(server, host=f"localhost:{server.port}") == (200, "the page")
    for path in ("/favicon.ico", "/../job.json", "/?x", "/index.html"):
        assert _ask(server, path)[0] == 404
    assert _ask(server, method="POST")[0] == 501
    assert server.server_address[0] == "127.0.0.1"


def test_pages_from_elsewhere_cannot_read_it(report_server: Serve) -> None:
    """A name of somebody else's may be made to point at 127.0.0.1."""
    server = report_server(lambda: b"the page")
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1:1"):
        status, text = _ask(server, host=host)
        assert status == 403 and "the page" not in text


def test_what_goes_wrong_is_said_and_the_server_goes_on(report_server: Serve) -> None:
    outcomes: list[Exception | None] = [StorageError("<b>gone</b>"), KeyError("x"), None]

    def make() -> bytes:
        if error := outcomes.pop(0):
            raise error
        return b"the page"

    server = report_server(make)
    status, page = _ask(server)
    assert status == 503 and "&lt;b&gt;gone" in page
    assert _ask(server)[0] == 500
    assert _ask(server) == (200, "the page")


def test_a_port_that_is_taken_is_said(report_server: Serve) -> None:
    server = report_server(lambda: b"")
    with pytest.raises(SettingsError, match=f"--port: found {server.port}, which cannot"):
        ReportServer(lambda: b"", server.port)


def test_the_command_prints_its_url_and_ends_at_ctrl_c(
    tmp_path: Path, report_server: Serve
) -> None:
    _write(RunFolder(str(tmp_path)), 0)
    command = [sys.executable, "-m", "dstc.cli", "report", str(tmp_path), "--serve", "--port", "0"]
    before = _files(tmp_path)
    # As a shell script starts it in the background: with SIGINT ignored.
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        served = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, kept)
    with served as it:
        try:
            assert it.stdout is not None
            url = it.stdout.readline().split()[0]
            port = int(url.removeprefix("http://127.0.0.1:").rstrip("/"))
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                connection.request("GET", "/")
                assert b"row-0" in connection.getresponse().read()
            it.send_signal(signal.SIGINT)
            out, err = it.communicate(timeout=30)
        finally:
            it.kill()
    assert (it.returncode, out, err) == (0, "", "")
    assert _files(tmp_path) == before


def test_a_folder_that_is_no_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a run folder"):
        serve_report(str(tmp_path), 0)
