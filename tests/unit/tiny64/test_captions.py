import pytest

from tiny64.captions import STYLE_PHRASES, caption


def test_caption_is_the_name_then_the_phrase_of_the_style():
    assert caption("fox", "fluent_3d") == "fox, glossy 3d render"
    assert caption("woman’s hat", "openmoji_line") == "woman’s hat, black line drawing"


def test_each_style_has_its_own_phrase():
    assert len(set(STYLE_PHRASES.values())) == len(STYLE_PHRASES) == 6


def test_unknown_style_names_the_known_ones():
    with pytest.raises(ValueError, match="'crayon' has no phrase; expected one of .*'twemoji'"):
        caption("fox", "crayon")


def test_blank_name_is_refused():
    with pytest.raises(ValueError, match="needs the name"):
        caption("  ", "noto")
