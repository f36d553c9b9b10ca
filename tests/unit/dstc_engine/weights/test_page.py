"""Where a confirmation page leads; pages of any other kind lead nowhere."""

from __future__ import annotations

import pytest

from dstc_engine.weights.page import confirmed_address

AT = "https://drive.example.org/uc?id=x1"


def test_hidden_fields_become_the_query() -> None:
    page = """<form id="download-form" action="https://files.example.org/download" method="get">
        <input type="submit" value="Download anyway"/>
        <input type="hidden" name="id" value="x1"><input type="hidden" name="confirm" value="t">
        <input type="hidden" name="uuid" value="a-b"></form>
        <input type="hidden" name="outside" value="1">"""
    expected = "https://files.example.org/download?id=x1&confirm=t&uuid=a-b"
    assert confirmed_address(page, AT) == expected


def test_the_query_of_a_form_without_fields_is_kept() -> None:
    page = '<form id="download-form" action="/uc?id=x1&amp;confirm=t" method="post"></form>'
    assert confirmed_address(page, AT) == "https://drive.example.org/uc?id=x1&confirm=t"


@pytest.mark.parametrize(
    "page",
    [
        "<html>Too many users have viewed or downloaded this file recently</html>",
        '<form id="login" action="/login"><input name="confirm" value="t"></form>',
        '<form id="download-form" action="/uc"><input name="id" value="x1"></form>',
        '<form id="download-form" action="file:///etc/x?confirm=t"></form>',
        "",
    ],
)
def test_other_pages_lead_nowhere(page: str) -> None:
    assert confirmed_address(page, AT) is None
