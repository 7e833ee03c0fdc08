"""Flags generated from the fields of `TrainSettings`: a flag, a TOML key and a keyword argument are the same setting.

Functions that need the settings import them: so commands without settings start faster.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from adam_mp.errors import CheckpointError, SettingsError, flag_of, shown
from adam_mp.process.output import standard_output
from adam_mp.proposals import proposal

if TYPE_CHECKING:
    from adam_mp.compute.model import Model
    from adam_mp.data.reading.options import LoadOptions


class Parser(argparse.ArgumentParser):
    """A parser that raises SettingsError with one line instead of printing its usage, and suggests flags."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **arguments)

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        """Answer with the help text; `file` is argparse's, and no caller gives one."""
        standard_output().answer(self.format_help(), end="")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of `args`; unknown flags raise SettingsError, with a known one that was perhaps meant."""
        values, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            flag = unknown[0].partition("=")[0]
            if flag.startswith("-"):
                raise SettingsError(f"unknown flag {shown(flag)[1:-1]}{self._proposal(flag, known)}")
            raise SettingsError(f"unexpected argument {shown(flag)}; see {self.prog} --help")
        return values

    def _proposal(self, flag: str, known: list[str]) -> str:
        from adam_mp.training.settings.settings import FIELDS

        settings = [name for name in (*FIELDS, "quiet") if flag_of(name) in known]
        long = [each for each in known if each.startswith("--")]
        return proposal(flag, settings, flag_of, long) or f"; see {self.prog} --help"


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def add_settings(
    parser: argparse.ArgumentParser, chosen: Collection[str] | None = None, texts: Mapping[str, str] | None = None
) -> None:
    """Add a flag for each `chosen` setting (None: for all), in its group, with its unit and default.

    `texts`, by setting, replaces the help of those settings that decide another thing for this command.
    """
    from adam_mp.training.settings.option import help_of
    from adam_mp.training.settings.settings import FIELDS

    fields = {name: field for name, field in FIELDS.items() if chosen is None or name in chosen}
    names = dict.fromkeys(field.metadata["group"] for field in fields.values())
    groups = {name: parser.add_argument_group(name) for name in names}
    for name, field in fields.items():
        default = f" (default: {field.default})" if field.default not in (None, False) else ""
        _add_flag(groups[field.metadata["group"]], name, field, ((texts or {}).get(name) or help_of(field)) + default)
    groups["what to train"].add_argument(
        "--config", metavar="FILE.toml", help="read settings from a TOML file; flags override its keys"
    )  # fmt: skip


def _add_flag(group: argparse._ArgumentGroup, name: str, field: dataclasses.Field[Any], text: str) -> None:
    text = text.replace("%", "%%")
    arguments: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "metavar": field.metadata["unit"]}
    if name == "resume":
        group.add_argument(flag_of(name), nargs="?", const=True, **{**arguments, "metavar": "DIR"})
    elif field.type == "bool":
        group.add_argument(flag_of(name), action="store_true", default=argparse.SUPPRESS, help=text)
    else:
        group.add_argument(flag_of(name), type=_converter(name, str(field.type)), **arguments)


def add_reading(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add flags for settings of reading images, for a model that knows how they were read in training."""
    from adam_mp.training.settings.option import help_of
    from adam_mp.training.settings.settings import FIELDS

    group = parser.add_argument_group("how images are read (default: as in the model's training)")
    for name in names:
        _add_flag(group, name, FIELDS[name], help_of(FIELDS[name]))


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the views of each image, to a command that asks a trained network."""
    from adam_mp.training.settings.option import help_of
    from adam_mp.training.settings.settings import FIELDS

    field = FIELDS["views"]
    text = f"{help_of(field)} (default: {field.default})"
    parser.add_argument("--views", metavar=field.metadata["unit"], default=field.default, help=text)


def reading_of(path: Path, model: Model, values: argparse.Namespace) -> LoadOptions:
    """Return how to read images for `model`, loaded from `path`: as in its training, but for the flags in `values`.

    Raises CheckpointError if the model's own options are damaged.
    """
    from adam_mp.data.reading.options import LoadOptions

    try:
        options = LoadOptions.kept(model.reading)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has damaged options of reading: {error!r}") from None
    given = {name: getattr(values, name) for name in ("follow_links", "pixel_limit", "white") if hasattr(values, name)}
    if "white" in given:
        given["clipped"] = True
    if getattr(values, "ignore_orientation", False):
        given["turned"] = False
    return dataclasses.replace(options, **{**_recorded(path, model), **given})


def _recorded(path: Path, model: Model) -> dict[str, Any]:
    """Return options of reading from the record of a run folder, if its model has none. Earlier versions wrote such."""
    from adam_mp.training.folder.run_folder import RUN_FILE, read_record

    if model.reading or not (path / RUN_FILE).is_file():
        return {}
    settings = read_record(path)["settings"]
    return {name: settings[name] for name in ("follow_links", "pixel_limit") if name in settings}


def given_settings(values: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the user gave: the file of `--config`, overridden by flags."""
    from adam_mp.training.settings.settings import FIELDS
    from adam_mp.training.settings.settings_file import read_settings_file

    given = read_settings_file(Path(values.config)) if values.config else {}
    given.update({name: value for name, value in vars(values).items() if name in FIELDS})
    return given


def add_common(parser: argparse._ActionsContainer) -> None:
    """Add the flags that every command has."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")


def _converter(name: str, annotation: str) -> Any:
    """Return a function that converts a flag's text to the type of setting `name`; it raises SettingsError."""
    number = float if "float" in annotation else int if "int" in annotation else str

    def convert(text: str) -> Any:
        try:
            return number(text)
        except ValueError:
            if "str" in annotation:
                return text
            kind = "a whole number" if number is int else "a number"
            raise SettingsError(f"{flag_of(name)} is {shown(text)}; expected {kind}") from None

    return convert


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command."""
    values: argparse.Namespace = parser.parse_args(arguments)
    return values
