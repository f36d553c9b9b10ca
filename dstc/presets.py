"""`dstc presets`: what presets there are, and what one of them holds."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from dstc.errors import SettingsError
from dstc_engine.preset_fields import as_text
from dstc_engine.presets import FIELDS, PRESETS, get_preset, with_fields

_FOR = {
    "tiny64": "trying out, drawings on white; its networks ship with the package",
    "tiny64-variance": "the same networks with the step of the paper: 24 steps",
    "imagenet256-text": "photographs, after words",
    "imagenet256-image": "photographs, after a style image",
    "imagenet256-text-fast": "the same in fewer, spherical steps; not tried with real weights",
    "imagenet256-image-fast": "the same in fewer, spherical steps; not tried with real weights",
    "imagenet512-text": "larger photographs, after words",
    "imagenet512-image": "larger photographs, after a style image",
    "ffhq256-text": "aligned faces, after words",
    "ffhq256-image": "aligned faces, after a style image",
}


def show_presets(name: str | None, changes: Mapping[str, str]) -> None:
    """Prints one line for each preset, or all fields of one.

    Args:
        name: of the preset to show. changes: fields of it, as `--set` gives them.

    Raises:
        PresetError: no such preset or field, or a value out of its range.
        SettingsError: changes to no preset.
    """
    # Meanings hold brackets, which are no styles.
    console = Console(markup=False)
    if name is not None:
        _show_one(console, name, changes)
    elif changes:
        raise SettingsError("--set: found no preset to change; expected its name, too")
    else:
        _list_all(console)


def _list_all(console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("preset", no_wrap=True)
    table.add_column("pixels", justify="right")
    table.add_column("guided steps", justify="right")
    for column in ("prior", "for"):
        table.add_column(column, overflow="fold")
    for preset in PRESETS.values():
        table.add_row(
            preset.name,
            str(preset.image_size),
            str(preset.guided_steps),
            preset.prior,
            _FOR.get(preset.name, ""),
        )
    console.print(table)


def _show_one(console: Console, name: str, changes: Mapping[str, str]) -> None:
    own = get_preset(name)
    preset = with_fields(own, dict(changes))
    table = Table(box=None, pad_edge=False)
    for column in ("field", "value", "meaning"):
        table.add_column(column, overflow="fold")
    for field, about in FIELDS.items():
        value, before = as_text(getattr(preset, field)), as_text(getattr(own, field))
        if value != before:
            value = f"{value}  (changed from {before})"
        table.add_row(field, value, about.meaning)
    console.print(table)
    plain = preset.steps - preset.guided_steps
    others = f", and {plain} without guidance" if plain else ""
    console.print(f"{preset.guided_steps} guided steps a row that never starts again{others}")
