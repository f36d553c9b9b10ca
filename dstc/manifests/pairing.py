"""Which styles and prompts each content gets: all, one after the other, some at random, by class.

A *target* is a style, a prompt, or one of each. How often a content becomes a row, and with what,
depends on its id and place, the lists and the seed alone.
"""

from __future__ import annotations

import posixpath
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.ids import slug, stem
from dstc.manifests.prompts import Template

_FORM = re.compile(r"(zip|product)|random:(\d+)|by:(.+)")
EXPECTED = "zip, product, random:K or by:COLUMN"


@dataclass(frozen=True)
class Target:
    """What a content is translated into.

    Attributes:
        style: URI, if any. prompt: template, if any.
        suffix: what it adds to the id of a content that has several.
    """

    style: str | None
    prompt: Template | None
    suffix: str


class Pairing:
    """The targets of each content.

    Args:
        how: "zip", "product", "random:K" or "by:COLUMN"; None where there is nothing to choose.
        styles: URIs. prompts: templates.
        seed: of random.

    Raises:
        SettingsError: not one of these, or several targets and nothing that says how.
    """

    def __init__(
        self, how: str | None, styles: Sequence[str], prompts: Sequence[Template], seed: int = 0
    ) -> None:
        if how is None:
            if len(styles) > 1 or len(prompts) > 1:
                raise SettingsError(
                    f"found {len(styles)} styles and {len(prompts)} prompts; expected --pair to "
                    "say what each content gets: zip (one after the other), product (all), "
                    "random:K (K of them) or by:COLUMN (those named as the column says)"
                )
            how = "product"
        found = _FORM.fullmatch(how)
        if found is None:
            raise SettingsError(f"--pair: found {how!r}; expected {EXPECTED}")
        self._is_zip = how == "zip"
        self.column: str | None = found[3]
        self._some = int(found[2]) if found[2] else None
        self._seed = seed
        slugs = _slugs(styles)
        prompt_slugs = [f"p{number}" for number in range(1, len(prompts) + 1)]
        some_styles: Sequence[str | None] = styles or [None]
        some_prompts: Sequence[Template | None] = prompts or [None]
        self._styles = list(zip(some_styles, slugs or [""], strict=True))
        self._prompts = list(
            zip(some_prompts, prompt_slugs if len(prompts) > 1 else [""], strict=True)
        )
        if self.column and not styles:
            raise SettingsError(f"--pair {how}: found no style; expected --style")
        self._targets = [
            _target(style, prompt) for style in self._styles for prompt in self._prompts
        ]
        if self._some is not None and not 1 <= self._some <= len(self._targets):
            raise SettingsError(
                f"--pair {how}: expected 1 to {len(self._targets)}, since so many styles and "
                "prompts there are together"
            )
        self._by = _by_name(self._styles) if self.column else {}

    @property
    def gives_several(self) -> bool:
        """Whether a content may become more than one row, whose ids then tell of the target."""
        if self._is_zip:
            return False
        if self._some is not None:
            return self._some > 1
        if self.column:
            return len(self._prompts) > 1 or any(len(places) > 1 for places in self._by.values())
        return len(self._targets) > 1

    def targets(self, row_id: str, number: int, row: Mapping[str, Any]) -> Sequence[Target]:
        """The targets of one content.

        Args:
            row_id: of the content. number: of its row, counted from 0. row: its columns.

        Raises:
            ManifestError: by:COLUMN, and no style is named as the row's value.
        """
        if self._is_zip:
            style = self._styles[number % len(self._styles)]
            return [_target(style, self._prompts[number % len(self._prompts)])]
        if self._some is not None:
            # By the id, so that rows before it, or after, change nothing.
            chosen = random.Random(f"{self._seed}:{row_id}").sample(
                range(len(self._targets)), self._some
            )
            return [self._targets[place] for place in sorted(chosen)]
        if self.column:
            value = row.get(self.column)
            places = None if value is None else self._by.get(str(value))
            if not places:
                raise ManifestError(
                    f"--pair by:{self.column}: row {row_id!r} has {value!r} there, and no style "
                    f"is named so; expected a file or a folder of this name among the styles "
                    f"(found {', '.join(sorted(self._by)[:20])})"
                )
            return [
                _target(self._styles[place], prompt) for place in places for prompt in self._prompts
            ]
        return self._targets


def _target(style: tuple[str | None, str], prompt: tuple[Template | None, str]) -> Target:
    suffix = "".join(f"--{part}" for part in (style[1], prompt[1]) if part)
    return Target(style[0], prompt[0], suffix)


def _slugs(styles: Sequence[str]) -> list[str]:
    """A part of an id for each style, empty where there is one style alone."""
    if len(styles) < 2:
        return [""] * len(styles)
    root = posixpath.commonpath([posixpath.dirname(style) for style in styles])
    taken: set[str] = set()
    found = []
    for style in styles:
        wanted = name = slug(stem(style.removeprefix(root).lstrip("/")))
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        found.append(name)
    return found


def _by_name(styles: Sequence[tuple[str | None, str]]) -> dict[str, list[int]]:
    """Places of the styles by the name of the file without its ending, and of its folder."""
    found: dict[str, list[int]] = {}
    for place, (style, _) in enumerate(styles):
        folder, _, file = (style or "").rpartition("/")
        for name in {stem(file), posixpath.basename(folder)}:
            found.setdefault(name, []).append(place)
    return found
