from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.training.settings.settings_file import read_settings_file


def test_a_file_of_settings_and_what_is_none(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("epochs = 3\nbatch-size = 8\nlr = '0.1 * warmup'\n")
    assert read_settings_file(path) == {"epochs": 3, "batch_size": 8, "lr": "0.1 * warmup"}
    for text, message in (("batchsize = 3", "did you mean 'batch_size'"), ("= 3", "is not TOML")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            read_settings_file(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read_settings_file(tmp_path)
