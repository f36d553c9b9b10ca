"""The page that Google Drive shows instead of a file it could not scan for viruses.

It holds one form, `download-form`, that either names the file in hidden fields (method GET) or in
the query of its address; both say `confirm` somewhere.
"""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit


def confirmed_address(page: str, address: str) -> str | None:
    """Where the file lies once the page's form is sent; None when the page has no such form.

    Args:
        page: HTML. address: of the page, at which relative ones start.
    """
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None
    action = urlsplit(urljoin(address, form.action))
    fields = dict(parse_qsl(action.query)) | form.fields
    if action.scheme not in ("http", "https") or "confirm" not in fields:
        return None
    return action._replace(query=urlencode(fields)).geturl()


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and found.get("id") == "download-form":
            self.action, self._is_inside = found.get("action", ""), True
        elif tag == "input" and self._is_inside and found.get("name"):
            self.fields[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_inside = False
