from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.training.settings.rates import parse_rates, rates_text
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.training.settings.settings_file import read_settings_file


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        ("none", ()),
        ("conv*=0.1,dense2=2", (("conv*", 0.1), ("dense2", 2.0))),
        (" conv[12].weight = 0 ", (("conv[12].weight", 0.0),)),
        ({"conv*": 0.1, "dense2": 1 / 3}, (("conv*", 0.1), ("dense2", 1 / 3))),
        ({}, ()),
    ],
)
def test_texts_and_tables(given, pairs):
    assert parse_rates(given) == pairs
    assert parse_rates(rates_text(pairs)) == pairs
    settings = TrainSettings(rates=given)
    assert (type(settings.rates), parse_rates(settings.rates)) == (str, pairs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "the pattern ''"),
        ("conv1", "the pattern ''"),
        ("conv1=", "the share of 'conv1' is ''"),
        ("conv1=much", "the share of 'conv1' is 'much'"),
        ("conv1=-1", "expected 0 to 1000"),
        ("conv1=nan", "expected 0 to 1000"),
        ({"conv1": True}, "the share of 'conv1' is True"),
        ({"a,b": 1}, "the pattern 'a,b'"),
        (0.1, "rates is 0.1"),
        (None, "rates is None"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(SettingsError, match=message):
        TrainSettings(rates=given)


def test_a_table_in_a_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[rates]\n'conv*' = 0.1\ndense2 = 2\n")
    assert TrainSettings(**read_settings_file(path)).rates == "conv*=0.1,dense2=2.0"
