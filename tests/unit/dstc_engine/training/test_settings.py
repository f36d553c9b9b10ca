from __future__ import annotations

import pytest

from dstc_engine.errors import UserError
from dstc_engine.training.prior import PriorTraining
from dstc_engine.training.settings import with_settings


def test_text_is_read_as_the_settings_type() -> None:
    how = with_settings(
        PriorTraining(), {"steps": "12", "peak_rate": "3e-4", "bf16": "false", "low_noise": "0.5"}
    )
    assert how == PriorTraining(steps=12, peak_rate=3e-4, bf16=False, low_noise=0.5)


def test_an_unknown_setting_is_named_with_its_neighbor() -> None:
    with pytest.raises(UserError, match="unknown training setting 'peakrate'; did you mean peak_r"):
        with_settings(PriorTraining(), {"peakrate": "1"})


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("steps", "many", "training setting 'steps': 'many' given, expected int"),
        ("bf16", "yes", "training setting 'bf16': 'yes' given, expected true or false"),
        ("low_noise", "1.5", "low_noise is 1.5; expected a share, 0 to 1"),
        ("low_noise_below", "1001", "low_noise_below is 1001; expected a time, 1 to 1000"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(key: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_settings(PriorTraining(), {key: text})
