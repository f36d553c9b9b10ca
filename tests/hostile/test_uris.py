"""URIs of rows: each is opened as what it says, or its row is rejected; nothing else is opened."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dstc.errors import StorageError
from dstc.evaluation.reference import read_reference
from dstc.reporting.cards import make_cards
from dstc.store import storage, urls
from dstc.store.http_fetch import check_address
from dstc.store.input_policy import SCHEMES, InputPolicy, check_uri
from dstc.store.inputs import read_input
from dstc.store.json_record import Record
from dstc.store.retries import Patience
from dstc.store.run_folder import RunFolder
from dstc.text import parse_url
from dstc.worker.row import Row, check_row, load_request
from dstc.worker.row_outcome import outcome_of
from tests.hostile.case import Case
from tests.hostile.hostile_host import HostileHost, hostile_host  # noqa: F401

ONCE = Patience(0, attempts=1)
KIND = "URIs"


def _rejected(name: str, what: str, reason: str = "bad_uri") -> Case:
    return Case(KIND, name, what, f"rejected: {reason}")


CASES = [
    _rejected("reference", "`reference://k::http://host/refs.json`, a template over objects"),
    _rejected("simplecache", "`simplecache::http://host/a.png`, a chain that writes a cache"),
    _rejected("zip", "`zip://a.png::http://host/a.zip`, a chain into an archive"),
    _rejected("github", "`github://owner:name@main/a.png`, another driver of fsspec"),
    _rejected("sftp", "`sftp://host/a.png`, another driver of fsspec"),
    _rejected("memory", "`memory://a.png`, another driver of fsspec"),
    _rejected("long_scheme", "a scheme of 5,000 letters"),
    _rejected("data", "a `data:` URI of 700 kB"),
    _rejected("long_uri", "a path of a million characters"),
    _rejected("long_name", "a file name of 300 characters"),
    _rejected("null", "a path with a null character"),
    _rejected("line_break", "a URL with a line break, as in a forged header"),
    _rejected("fifo", "a FIFO, which would wait for ever"),
    _rejected("link_to_fifo", "a link to a FIFO"),
    _rejected("dev_zero", "`/dev/zero`, which has no end"),
    _rejected("dev_stdin", "`/dev/stdin`"),
    _rejected("proc_environ", "`/proc/self/environ`, the secrets of the process"),
    _rejected("proc_by_dots", "`/proc/self/environ` by way of `..`"),
    _rejected("link_to_proc", "a link to `/proc/self/environ`"),
    _rejected("file_url_of_proc", "`file:///proc/self/environ`, some of it percent-encoded"),
    _rejected("file_url_of_host", "`file://host/a.png`"),
    _rejected("folder", "a folder", "missing_picture"),
    _rejected("gone", "a file that is not there", "missing_picture"),
    _rejected("text", "a text file, of which no byte is told", "unreadable_picture"),
    _rejected("local_of_remote", "a local file, named by a manifest in a bucket"),
    _rejected("local_by_dots", "a local file outside of `--allow-local`, by way of `..`"),
    _rejected("local_by_link", "a link out of `--allow-local`"),
    _rejected("local_beside", "a folder whose name begins as that of `--allow-local`"),
    Case(KIND, "local_allowed", "a local file below `--allow-local`", "done"),
    Case(KIND, "chain_in_a_name", "a file whose name has `::` in it", "done"),
    Case(KIND, "percent", "`file:///a%20b.png`, the file `a b.png`", "done"),
    Case(KIND, "percent_in_a_path", "a local name with `%20` in it, taken as it is", "done"),
    _rejected("loopback", "a web server at 127.0.0.1, without `--allow-private-hosts`"),
    _rejected("loopback_by_number", "the same, as `http://2130706433/`"),
    _rejected("loopback_by_name", "the same, as `http://localhost/`"),
    _rejected("loopback_by_ipv6", "the same, as `http://[::ffff:127.0.0.1]/`"),
    Case(KIND, "loopback_allowed", "the same, with `--allow-private-hosts`", "done"),
    _rejected("metadata", "`http://169.254.169.254/`, even with `--allow-private-hosts`"),
    _rejected("metadata_by_ipv6", "the same, as `http://[::ffff:a9fe:a9fe]/`"),
    _rejected("redirect_to_metadata", "a redirect to `http://169.254.169.254/`"),
    _rejected("redirect_to_a_file", "a redirect to `file:///etc/passwd`"),
    _rejected("redirect_with_password", "a redirect to `http://user:password@host/`"),
    _rejected("redirect_for_ever", "a redirect to itself"),
    Case(KIND, "redirect", "a redirect to an image", "done"),
    _rejected("bomb", "an answer of 4 kB that unpacks to 4 MB, where 1 MB is allowed", "too_large"),
    _rejected("endless", "a body without an end", "too_large"),
    _rejected("large_file", "a local file of more than `--max-image-bytes`", "too_large"),
    Case(KIND, "slow_body", "a body of a byte now and then", "failed: input_timeout"),
    Case(KIND, "slow_headers", "headers of a byte now and then", "failed: input_timeout"),
    _rejected("page", "a web page in place of an image", "unreadable_picture"),
    Case(KIND, "denied", "an image that the server denies", "failed: fetch_error"),
    _rejected("not_found", "an image that the server does not have", "missing_picture"),
    _rejected("password", "`http://user:password@host/a.png`"),
    _rejected("password_with_slash", "a password with a `/` in it"),
    _rejected("key_of_s3", "`s3://KEY:SECRET@bucket/a.png`, with a `/` and a blank in the secret"),
    _rejected("host_of_nothing", "`http:///a.png`"),
    _rejected("bad_ipv6", "`http://[::1/a.png`"),
    _rejected("style", "a style by another driver"),
    _rejected("mask", "a mask by another driver"),
    _rejected("long_prompt", "a prompt of a megabyte", "long_prompt"),
    _rejected("long_word", "a source prompt that is one word of 16 kB", "long_prompt"),
    Case(KIND, "prompt", "a prompt of 4,096 characters", "done"),
]


@dataclass(frozen=True)
class Tried:
    """A row's values, and what its manifest and options are."""

    values: dict[str, Any]
    policy: InputPolicy = InputPolicy(any_local=True, max_bytes=1 << 20)
    folder: str = "/"


def tries(tmp_path: Path, host: HostileHost) -> dict[str, Tried]:
    """A row for each case, by its name; makes the files that they name."""
    image = _png()
    host.image = image
    for each in ("a.png", "b::a.png", "simplecache::a.png", "a b.png", "a%20b.png"):
        (tmp_path / each).write_bytes(image)
    (tmp_path / "secret.txt").write_text("AWS_SECRET=s3cr3t")
    (tmp_path / "large.png").write_bytes(image + bytes(5 << 20))
    os.mkfifo(tmp_path / "fifo")
    inside, beside = tmp_path / "in", tmp_path / "inside"
    for folder in (inside, beside):
        folder.mkdir()
        (folder / "a.png").write_bytes(image)
    links = {"to-fifo": "fifo", "to-proc": "/proc/self/environ", "in/out.png": "../a.png"}
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    url, port = host.url, host.port
    host.redirects.update(
        image=f"{url}/a.png",
        metadata="http://169.254.169.254/latest/meta-data/",
        file="file:///etc/passwd",
        password=f"http://user:s3cr3t@127.0.0.1:{port}/a.png",
    )
    strict = InputPolicy(any_local=True, max_bytes=1 << 20)
    private = InputPolicy(any_local=True, private_hosts=True, max_bytes=1 << 20)
    remote = InputPolicy(max_bytes=1 << 20)
    some = InputPolicy(local_folders=(str(inside),), max_bytes=1 << 20)
    by_name: dict[str, tuple[str, InputPolicy]] = {
        "reference": (f"reference://k::{url}/refs.json", private),
        "simplecache": (f"simplecache::{url}/a.png", private),
        "zip": (f"zip://a.png::{url}/a.zip", private),
        "github": ("github://owner:name@main/a.png", private),
        "sftp": ("sftp://127.0.0.1/a.png", private),
        "memory": ("memory://a.png", private),
        "long_scheme": ("x" * 5000 + "://a.png", private),
        "data": ("data:image/png;base64," + "s3cr3t" * 120_000, private),
        "long_uri": ("a/" * 500_000, strict),
        "long_name": ("a" * 300 + ".png", strict),
        "null": ("a\0.png", strict),
        "line_break": (f"{url}/a.png\r\nX-Forged: 1", private),
        "fifo": (str(tmp_path / "fifo"), strict),
        "link_to_fifo": ("to-fifo", strict),
        "dev_zero": ("/dev/zero", strict),
        "dev_stdin": ("/dev/stdin", strict),
        "proc_environ": ("/proc/self/environ", strict),
        "proc_by_dots": (f"{tmp_path}/in/../../../../../../../../proc/self/environ", strict),
        "link_to_proc": ("to-proc", strict),
        "file_url_of_proc": ("file:///%70roc/self/environ", strict),
        "file_url_of_host": (f"file://host{tmp_path}/a.png", strict),
        "folder": (str(inside), strict),
        "gone": ("gone.png", strict),
        "text": ("secret.txt", strict),
        "local_of_remote": (str(tmp_path / "a.png"), remote),
        "local_by_dots": (str(inside / ".." / "a.png"), some),
        "local_by_link": (str(inside / "out.png"), some),
        "local_beside": (str(beside / "a.png"), some),
        "local_allowed": (str(inside / "a.png"), some),
        "chain_in_a_name": ("simplecache::a.png", strict),
        "percent": (f"file://{tmp_path}/a%20b.png", strict),
        "percent_in_a_path": ("a%20b.png", strict),
        "loopback": (f"{url}/a.png", strict),
        "loopback_by_number": (f"http://2130706433:{port}/a.png", strict),
        "loopback_by_name": (f"http://localhost:{port}/a.png", strict),
        "loopback_by_ipv6": (f"http://[::ffff:127.0.0.1]:{port}/a.png", strict),
        "loopback_allowed": (f"{url}/a.png", private),
        "metadata": ("http://169.254.169.254/latest/meta-data/", private),
        "metadata_by_ipv6": ("http://[::ffff:a9fe:a9fe]/", private),
        "redirect_to_metadata": (f"{url}/to/metadata", private),
        "redirect_to_a_file": (f"{url}/to/file", private),
        "redirect_with_password": (f"{url}/to/password", private),
        "redirect_for_ever": (f"{url}/loop", private),
        "redirect": (f"{url}/to/image", private),
        "bomb": (f"{url}/bomb", private),
        "endless": (f"{url}/endless", private),
        "large_file": ("large.png", strict),
        "slow_body": (f"{url}/slow-body", private),
        "slow_headers": (f"{url}/slow-headers", private),
        "page": (f"{url}/page", private),
        "denied": (f"{url}/denied", private),
        "not_found": (f"{url}/none", private),
        "password": (f"http://user:s3cr3t@127.0.0.1:{port}/a.png", private),
        "password_with_slash": (f"http://user:s3/cr3t@127.0.0.1:{port}/a.png", private),
        "key_of_s3": ("s3://KEY:s3/cr3t s3cr3t@bucket/a.png", private),
        "host_of_nothing": ("http:///a.png", private),
        "bad_ipv6": ("http://[::1/a.png", private),
    }
    values: dict[str, Any] = {"id": "row", "content": "a.png", "prompt": "a dog"}
    changes: dict[str, dict[str, Any]] = {
        "style": {"style": "ftp://127.0.0.1/a.png"},
        "mask": {"mask": "ftp://127.0.0.1/a.png"},
        "long_prompt": {"prompt": "s3cr3t " * 150_000},
        "long_word": {"source_prompt": "s3cr3t" * 2_700},
        "prompt": {"prompt": "a dog " * 682},
    }
    folder = str(tmp_path)
    return {
        **{
            name: Tried({**values, "content": content}, policy, folder)
            for name, (content, policy) in by_name.items()
        },
        **{name: Tried({**values, **change}, strict, folder) for name, change in changes.items()},
    }


@pytest.fixture
def tried(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    hostile_host: HostileHost,  # noqa: F811
) -> Tried:
    return tries(tmp_path, hostile_host)[request.getfixturevalue("case").name]


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(file, "PNG")
    return file.getvalue()


def _end(tried: Tried) -> tuple[str, str]:
    """How a row ends, as a worker would have it, and its error."""
    row: Row | None = None

    def read(uri: str) -> bytes:
        return read_input(uri, tried.policy, ONCE, 0.5)

    try:
        row = check_row(tried.values, 0, 0)
        load_request(row, tried.folder, read)
    except Exception as error:
        outcome = outcome_of(error, row, tried.values)
        return f"{outcome.status}: {outcome.reason}", str(outcome.error)
    return "done", ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_uris_of_rows(case: Case, tried: Tried) -> None:
    outcome, error = _end(tried)
    assert outcome == case.outcome, error
    assert "s3cr3t" not in error and len(error) < 1000
    assert "internal_error" not in outcome


def test_the_driver_of_a_chain_is_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    real = fsspec.get_filesystem_class

    def noted(scheme: str) -> Any:
        made.append(scheme)
        return real(scheme)

    monkeypatch.setattr(fsspec, "get_filesystem_class", noted)
    filesystem, path = storage.open_filesystem("memory://a/zip::b.png")
    assert type(filesystem).__name__ == "MemoryFileSystem" and path.endswith("a/zip::b.png")
    assert made == ["memory"]


def test_keys_of_objects_may_hold_two_colons() -> None:
    _, path = storage.open_filesystem("s3://bucket/simplecache::a.png")
    assert path == "bucket/simplecache::a.png"


def test_a_prompt_that_is_too_long_is_told_in_tokens() -> None:
    values = {"id": "row", "content": "a.png", "prompt": "a dog " * 700}
    with pytest.raises(Exception, match=r"4,200 characters \(its first 1,024 are 7 tokens\)"):
        check_row(values, 0, 0, count_tokens=lambda text: len(text) // 144)


@pytest.mark.parametrize(
    ("address", "is_allowed", "is_allowed_with_option"),
    [
        ("93.184.215.14", True, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("fd00::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::10.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("169.254.170.2", False, False),
        ("fe80::1%eth0", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::169.254.169.254", False, False),
        ("2002:a9fe:a9fe::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
    ],
)
def test_addresses(address: str, is_allowed: bool, is_allowed_with_option: bool) -> None:
    for private_hosts, expected in ((False, is_allowed), (True, is_allowed_with_option)):
        try:
            check_address(address, private_hosts)
        except StorageError:
            assert not expected
        else:
            assert expected


def test_the_address_that_is_checked_is_the_one_connected_to(
    hostile_host: HostileHost,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that is public when it is looked up first, and loopback the second time."""
    answers = [[("93.184.215.14", 1)], [("127.0.0.1", hostile_host.port)]]
    looked_up: list[str] = []

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> list[Any]:
        looked_up.append(host)
        return [(2, 1, 6, "", address) for address in answers[min(len(looked_up) - 1, 1)]]

    connected: list[Any] = []

    def connect(self: Any, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("dstc.store.http_fetch.socket.getaddrinfo", getaddrinfo)
    monkeypatch.setattr("dstc.store.http_fetch.socket.socket.connect", connect)
    with pytest.raises(OSError, match="refused"):
        read_input("http://rebinding.example/a.png", InputPolicy(), ONCE)
    assert connected == [("93.184.215.14", 1)] and looked_up == ["rebinding.example"]
    with pytest.raises(StorageError, match="127.0.0.1 is private or loopback"):
        read_input("http://rebinding.example/a.png", InputPolicy(), ONCE)
    assert len(connected) == 1 and not hostile_host.asked


# --- the same door for results and references -----------------------------------------------------


def _row(**values: Any) -> dict[str, Any]:
    return {"id": "row", "status": "done", "shard": 0, "offset": 0, **values}


def test_a_report_opens_no_more_than_a_run_would(
    tmp_path: Path,
    hostile_host: HostileHost,  # noqa: F811
) -> None:
    hostile_host.image = _png()
    (tmp_path / "a.png").write_bytes(_png())
    run = RunFolder(str(tmp_path / "run"))
    manifest = {"uri": "s3://bucket/m.parquet", "files": {"m.parquet": {"rows": 1}}}
    job = Record("job.json", {"manifest": manifest, "settings": {"rows_per_shard": 16}})
    rows = [
        _row(content=str(tmp_path / "a.png"), style=f"{hostile_host.url}/a.png", image="../a.png"),
        _row(content="zip://a::b", style="/proc/self/environ", image="/etc/hostname"),
    ]
    first, second = make_cards(run, job, rows)
    problems = [
        image.problem if image else None
        for card in (first, second)
        for image in (card.content, card.style, card.result)
    ]
    out = "a path that leads out of the run folder"
    assert [text and text.partition(";")[0] for text in problems] == [
        "a local file, named by a manifest that lies elsewhere",
        "the address 127.0.0.1 is private or loopback",
        out,
        "a URI that cannot be used",
        "a URI that cannot be used",
        out,
    ]
    assert not hostile_host.asked
    allowed = InputPolicy(local_folders=(str(tmp_path),), private_hosts=True)
    (card, _) = make_cards(run, job, rows, inputs=allowed)
    assert card.content and card.content.data and card.style and card.style.data


def test_a_reference_opens_no_more_than_a_run_would(
    tmp_path: Path,
    hostile_host: HostileHost,  # noqa: F811
) -> None:
    uri = str(tmp_path / "real.parquet")
    uris = ["/dev/zero", f"{hostile_host.url}/a.png", "reference://k::http://host/refs.json"]
    pq.write_table(pa.table({"image": uris}), uri)
    reference = read_reference(uri, {})
    for number in range(3):
        with pytest.raises(StorageError):
            reference.decode(number, 64, "crop")
    assert not hostile_host.asked


def test_a_row_that_is_measured_opens_no_more_than_a_run_would(tmp_path: Path) -> None:
    from dstc.evaluation.measure_shard import read_images
    from dstc.evaluation.plan import EvaluationConfig
    from dstc.worker.image_cache import ImageCache

    (tmp_path / "a.png").write_bytes(_png())
    config = EvaluationConfig("", 64, -1, "", "truth", 64, "crop", masks="mask")
    good = {"content": str(tmp_path / "a.png"), "image": "a.png"}
    run, policy = RunFolder(str(tmp_path)), InputPolicy(any_local=True)
    assert read_images(run, config, good, "/", ImageCache(0), policy).content.dtype == np.uint8
    for change in (
        {"truth": "/proc/self/environ"},
        {"mask": "zip://a::b"},
        {"style": "http://127.0.0.1:1/a.png"},
        {"image": "../../etc/hostname"},
    ):
        with pytest.raises(StorageError):
            read_images(run, config, {**good, **change}, "/", ImageCache(0), policy)


# --- properties -----------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["s3", "http", "file", "zip", "::", "://", "/", "..", "@", ":", "?", "#", "%2e", " ", "'", "\n"]
    + ["a", "host", "127.0.0.1", "[", "]", "\\", "\0", "é", "data:", "proc/self/environ", "\u2028"]
)
_URIS = st.one_of(st.text(max_size=80), st.lists(_PIECES, max_size=12).map("".join))


@given(_URIS)
def test_what_passes_the_check_is_local_or_of_an_allowed_scheme(uri: str) -> None:
    try:
        check_uri(uri)
    except StorageError as error:
        assert len(str(error)) < 1000
        return
    url = parse_url(uri)
    assert url is None or (url.scheme in SCHEMES and url.user is None)


@settings(deadline=None, max_examples=60)
@given(_URIS)
def test_any_uri_ends_its_row_with_a_reason(uri: str) -> None:
    values = {"id": "row", "content": uri or "x", "prompt": "a dog"}

    def read(uri: str) -> bytes:
        check_uri(uri)
        if urls.local_path(uri) is None:
            raise ConnectionError(f"no network for {uri}")
        return read_input(uri, InputPolicy(any_local=True), ONCE, 5)

    row: Row | None = None
    try:
        row = check_row(values, 0, 0)
        load_request(row, "/nowhere/at-all", read)
    except Exception as error:
        outcome = outcome_of(error, row, values)
        assert outcome.status in ("rejected", "failed") and outcome.reason != "internal_error"
        assert len(str(outcome.error)) < 1200
