"""Templates of prompts: `{label}, watercolor`, filled from the columns of each row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter
from typing import Any

from dstc.errors import SettingsError

_FORMATTER = Formatter()


class Template:
    """Text with names of columns in braces; `{{` and `}}` are braces.

    Args:
        text: of the template. option: names it in errors.

    Raises:
        SettingsError: no template, or one that does more than name columns.

    Example:
        >>> Template("{label}, watercolor").fill({"label": "dog"})
        'dog, watercolor'
    """

    def __init__(self, text: str, option: str = "--prompt") -> None:
        self.text, self._option = text, option
        try:
            self._parts = list(_FORMATTER.parse(text))
        except ValueError as error:
            raise SettingsError(
                f"{option} {text!r}: {error}; expected text with {{COLUMN}}, or {{{{ and }}}} for "
                "braces"
            ) from None
        for _, name, form, conversion in self._parts:
            if name is not None and (not name or form or conversion):
                raise SettingsError(
                    f"{option} {text!r}: found {{{name}{'!' + conversion if conversion else ''}"
                    f"{':' + form if form else ''}}}; expected the name of a column alone"
                )

    @property
    def names(self) -> list[str]:
        """Columns that it needs, each once."""
        return list(dict.fromkeys(name for _, name, _, _ in self._parts if name is not None))

    def check(self, columns: Collection[str]) -> None:
        """Refuses a placeholder that is no column.

        Raises:
            SettingsError: it names the placeholder and the columns.
        """
        for name in self.names:
            if name not in columns:
                raise SettingsError(
                    f"{self._option} {self.text!r}: there is no column {name!r}; found "
                    + ", ".join(sorted(columns))
                )

    def fill(self, row: Mapping[str, Any]) -> str | None:
        """The text for a row; None where one of its columns is empty there."""
        text = ""
        for literal, name, _, _ in self._parts:
            text += literal
            if name is None:
                continue
            value = _as_text(row.get(name))
            if not value:
                return None
            text += value
        return text


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):  # several classes, each said once
        return ", ".join(dict.fromkeys(filter(None, map(_as_text, value))))
    return str(value).strip()
