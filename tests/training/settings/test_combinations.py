from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.training.settings.settings import TrainSettings


def test_settings_that_need_each_other():
    with pytest.raises(SettingsError, match="validation images"):
        TrainSettings(target_accuracy=0.9, validation=0)
    with pytest.raises(SettingsError, match="give one of them"):
        TrainSettings(resume="a", run_dir="b")
    for alone in ({"replicas": 2}, {"wire": "float16"}):
        with pytest.raises(SettingsError, match="give servers=N"):
            TrainSettings(**alone)
    with pytest.raises(SettingsError, match="run_dir=DIR"):
        TrainSettings(resume=True)
    assert str(TrainSettings(resume="there").folder) == "there"
    assert TrainSettings().folder is None
