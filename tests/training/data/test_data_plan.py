from __future__ import annotations

import numpy as np
import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import SettingsError
from adam_mp.training.data.data_plan import load_dataset
from adam_mp.training.settings.settings import make_settings
from tests.data.pictures_on_disk import write_folder


def load(data, **settings):
    return load_dataset(make_settings({"data": data, **settings}))


def test_settings_for_reading_come_too_late_for_data_that_are_loaded(tmp_path):
    write_folder(tmp_path, 3)
    data = load_data(tmp_path)
    assert load(data) == data
    with pytest.raises(
        SettingsError, match=r"ignore_orientation is True, but .* with turned True; .*LoadOptions\(turned=False\)"
    ):
        load(data, ignore_orientation=True)
    with pytest.raises(SettingsError, match=r"white is 99.0, but .* with white None"):
        load(data, white=99)
    as_stored = load_data(tmp_path, LoadOptions(turned=False))
    assert load(as_stored) == load(as_stored, ignore_orientation=True) == as_stored
    arrays = load_data((np.zeros((6, 4, 4), np.uint8), [0, 1] * 3))
    assert load(arrays, pixel_limit=99).train is arrays.train  # no image of these is in a file
