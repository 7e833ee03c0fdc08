from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.training.settings.cache_size import parse_cache


@pytest.mark.parametrize(
    ("text", "size"),
    [("60%", 600), ("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5k", 1500), ("4096", 4096), ("0", 0), ("95%", 950)],
)
def test_sizes_of_the_cache(text, size):
    assert parse_cache(text, 1000) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "96%", "2 tons", "%", True, None])
def test_what_is_no_size_is_said(text):
    with pytest.raises(SettingsError, match="cache is"):
        parse_cache(text, 1000)
