"""The captions that the small CLIP is trained on, and that prompts for it should look like."""

from __future__ import annotations

from collections.abc import Mapping

STYLE_PHRASES: Mapping[str, str] = {
    "twemoji": "flat cartoon drawing",
    "noto": "soft shaded drawing",
    "openmoji": "outlined colour drawing",
    "openmoji_line": "black line drawing",
    "fluent_flat": "flat colour shapes",
    "fluent_3d": "glossy 3d render",
}
"""What each style of the emoji data set is called in words."""

OTHER_PHRASES: Mapping[str, str] = {
    "fluent_color": "colour gradient drawing",
    "noto_v1": "rounded cartoon drawing",
    "emojione": "bright cartoon drawing",
    "fxemoji": "simple cartoon drawing",
}
"""The same of the styles that only some trainings see (`every_style`), and no benchmark."""


def caption(name: str, style: str) -> str:
    """Caption of an image: "<name>, <style phrase>".

    Args:
        name: what is shown, such as "fox"; taken as it is, without an article.
        style: a key of `STYLE_PHRASES`.

    Returns:
        Such as "fox, glossy 3d render".

    Raises:
        ValueError: the name is blank, or the style has no phrase.
    """
    if not name.strip():
        raise ValueError(f"a caption needs the name of what is shown; got {name!r}")
    if style not in STYLE_PHRASES:
        raise ValueError(f"style {style!r} has no phrase; expected one of {list(STYLE_PHRASES)}")
    return f"{name}, {STYLE_PHRASES[style]}"
