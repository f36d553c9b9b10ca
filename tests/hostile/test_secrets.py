"""Secrets: what must not be kept is refused by component, and never told, however it is written."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstc.errors import StorageError
from dstc.planning.settings import make_settings
from dstc.reporting.texts import text_of
from dstc.store import urls
from dstc.text import describe, parse_url, redact, shown
from tests.hostile.case import Case

KIND = "Secrets"
SECRET = "s3cr3tvalue"
_REFUSED = "refused: exit 2"
CASES = [
    Case(KIND, "signature", "a signed URL as manifest", _REFUSED),
    Case(KIND, "blank_in_path", "a signed URL with a blank in its path", _REFUSED),
    Case(KIND, "quote_in_path", "a signed URL with a quote in its path", _REFUSED),
    Case(KIND, "blank_in_query", "a signed URL with a blank in its signature", _REFUSED),
    Case(KIND, "password", "a user and a password", _REFUSED),
    Case(KIND, "slash_in_key", "a key of S3 with a `/` in it", _REFUSED),
    Case(KIND, "port_in_key", "a key of S3 that looks like a port", _REFUSED),
    Case(KIND, "quote_in_key", "a key of S3 with a quote and a blank in it", _REFUSED),
    Case(KIND, "key_without_bucket", "a key of S3 and no bucket", _REFUSED),
    Case(KIND, "user_alone", "a token in place of a user", _REFUSED),
    Case(KIND, "password_of_azure", "a password beside a container of Azure", _REFUSED),
    Case(KIND, "container", "`abfs://container@account.dfs.core.windows.net/rows.parquet`", "done"),
    Case(KIND, "container_alone", "`abfs://container@account/rows.parquet`", "done"),
    Case(KIND, "at_in_path", "`s3://bucket/a@b.parquet`", "done"),
    Case(KIND, "port", "`http://host:8080/a.parquet`", "done"),
]
_URLS = {
    "signature": f"https://host/a.parquet?X-Amz-Signature={SECRET}",
    "blank_in_path": f"https://host/a b.parquet?X-Amz-Signature={SECRET}",
    "quote_in_path": f"https://host/a'b\".parquet?X-Amz-Signature={SECRET}",
    "blank_in_query": f"https://host/a.parquet?sig=x {SECRET}",
    "password": f"https://me:{SECRET}@host/a.parquet",
    "slash_in_key": f"s3://KEY:a/{SECRET}@bucket/a.parquet",
    "port_in_key": f"s3://KEY:123/{SECRET}@bucket/a.parquet",
    "quote_in_key": f"s3://KEY:a' {SECRET}@bucket/a.parquet",
    "key_without_bucket": f"s3://KEY:{SECRET}",
    "user_alone": f"https://{SECRET}@host/a.parquet",
    "password_of_azure": f"abfs://container:{SECRET}@account/a.parquet",
    "container": "abfs://container@account.dfs.core.windows.net/rows.parquet",
    "container_alone": "abfs://container@account/rows.parquet",
    "at_in_path": "s3://bucket/a@b.parquet",
    "port": "http://host:8080/a.parquet",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_credentials_in_urls_that_are_kept(case: Case) -> None:
    url = _URLS[case.name]
    for values in ({"manifest": url, "output": "run"}, {"manifest": "m", "output": url}):
        try:
            found = make_settings(**values)
        except StorageError as error:
            assert case.outcome == "refused: exit 2"
            assert SECRET not in str(error) and "environment" in str(error)
        else:
            assert case.outcome == "done"
            assert url in (found.manifest, found.output)
    for told in (
        redact(url, url),
        shown(url),
        text_of(url),
        describe(ValueError(f"at {url}"), url),
    ):
        assert SECRET not in told
    if case.outcome == "done":
        assert redact(url) == url


@pytest.mark.parametrize(
    "text",
    [
        f"403 from https://host/a b.png?X-Amz-Signature={SECRET}",
        f"URL('https://host/a'b.png?X-Amz-Signature={SECRET}')",
        f'{{"uri": "https://host/a b.png?sig={SECRET}"}}',
        f"s3://KEY:a/{SECRET}@bucket/a: no such bucket",
        f"s3://KEY:a {SECRET}@bucket/a: no such bucket",
        f"s3://KEY:a'\"{SECRET}@bucket/a",
        f"two: s3://b/c and https://me:{SECRET}@host/x?y",
        f"Max retries exceeded with url: /a.png?X-Amz-Signature={SECRET}&b=1",
        f"credential AWSAccessKeyId={SECRET}",
    ],
)
def test_texts_of_drivers_lose_what_is_secret(text: str) -> None:
    assert SECRET not in redact(text)


def test_texts_keep_what_is_no_secret() -> None:
    for text in (
        "abfs://container@account/a.png: not found",
        "https://host:8080/a@b.png: is it there? perhaps",
        "http://[::1]:80/a@b",
        "https://h/a.png?...: cannot be fetched",
    ):
        assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "AZURE_STORAGE_KEY", "DB_PASSWORD"],
)
def test_values_of_the_environment_are_never_told(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value = "wJalr/XUtn+FEMI K7MDENG'bPx"
    monkeypatch.setenv(name, value)
    told = describe(OSError(f"signed with {value}, sent as {quote(value, safe='')}"))
    assert told == "OSError: signed with ..., sent as ..."


def test_a_connection_string_of_azure_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={SECRET}==;EndpointSuffix=x"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert SECRET not in redact(f"with the key {SECRET}==")


def test_an_error_is_never_longer_than_500_characters() -> None:
    assert len(describe(ValueError("x" * 700_000))) == 500


@pytest.mark.parametrize(
    "piece", ["a.", "://", "://a:", "x@", "://a?b= ", "?&=", "https://h/a b?s=1&"]
)
def test_a_megabyte_is_redacted_in_a_moment(piece: str) -> None:
    many = piece * ((1 << 20) // len(piece))
    for text in (many, f"https://x?{many}"):
        start = time.monotonic()
        text_of(text)
        assert time.monotonic() - start < 5


_SECRETS = st.text(
    st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=40
).map(lambda text: f"Q{text}Z")


@given(_SECRETS)
def test_no_character_of_a_password_defeats_the_refusal(secret: str) -> None:
    value = secret.replace("&", "")  # which ends a value
    for url, hidden in (
        (f"s3://KEY:{secret}@bucket/a", secret),
        (f"https://host/a b?sig={value}", value),
    ):
        with pytest.raises(StorageError) as refusal:
            urls.refuse_credentials(url, "manifest")
        assert hidden not in str(refusal.value)
        for form in (hidden, quote(hidden), quote(hidden, safe="")):
            assert form not in redact(f"the driver says {form} of {url}", url)


@given(st.text(max_size=60))
def test_a_url_is_taken_apart_without_loss(rest: str) -> None:
    url = parse_url(f"https://{rest}")
    assert url is not None and url.scheme == "https"
    assert "@" not in url.host
