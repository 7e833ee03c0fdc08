"""Settings from a TOML file, as `--config` names one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from adam_mp.errors import SettingsError
from adam_mp.machine import as_name
from adam_mp.proposals import unknown
from adam_mp.training.settings.settings import FIELDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings; keys are those of `TrainSettings`, with - or _ between words."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
    values = {
        key.replace("-", "_"): as_name(value) if isinstance(value, str) else value for key, value in table.items()
    }
    for name in values:
        if name not in FIELDS:
            raise SettingsError(f"settings file {path}: {unknown('key', name, FIELDS)}")
    return values
