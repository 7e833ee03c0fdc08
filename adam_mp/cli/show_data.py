"""`adam-mp show-data`: a contact sheet of training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adam_mp.cli.options import Parser, add_common, add_settings, given_settings, parse
from adam_mp.errors import DataError, SettingsError, several
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.machine import usable_cores
from adam_mp.process.output import one_line, standard_error, standard_output
from adam_mp.report.contact_sheet import contact_sheet
from adam_mp.report.progress import ProgressDisplay
from adam_mp.training.data.data_plan import load_dataset, plan_data, settle_validation, tell_notes
from adam_mp.training.data.preview import preview
from adam_mp.training.settings.events import KernelCompiled, Notice
from adam_mp.training.settings.settings import make_settings

_SETTINGS = (
    "data",
    "image_size",
    "augment",
    "validation",
    "follow_links",
    "pixel_limit",
    "ignore_orientation",
    "white",
    "seed",
)
_MOST = 400


def run(arguments: Sequence[str]) -> int:
    """Write a contact sheet of training images, each beside what the workers will see of it."""
    parser = Parser(
        prog="adam-mp show-data",
        description="Write a PNG picture of training images, each beside what the workers will see of it.",
    )
    add_settings(parser, _SETTINGS)
    parser.add_argument("--count", metavar="N", type=int, default=32, help="images to show (default: 32)")
    parser.add_argument("--epoch", metavar="N", type=int, default=1, help="epoch whose draws to show (default: 1)")
    parser.add_argument(
        "--output", metavar="FILE.png", default="data.png", help="where to write the picture (default: data.png)"
    )
    add_common(parser)
    values = parse(parser, arguments)
    for name, most in (("count", _MOST), ("epoch", 10**9)):
        if not 1 <= getattr(values, name) <= most:
            raise SettingsError(f"--{name} is {getattr(values, name)}; expected 1 to {most:,}")
    given = given_settings(values)
    settings = make_settings(given)
    display = ProgressDisplay(standard_output(), standard_error())
    compile_kernels("float32", lambda done, total: display(KernelCompiled(done, total)))
    dataset = load_dataset(settings)
    tell_notes(dataset, display)
    settings = settle_validation(settings, given, dataset, lambda text: display(Notice(text)))
    if dataset.image_shape[2] not in (1, 3):
        raise DataError(f"{dataset.name} has {dataset.image_shape[2]} channels; expected 1 or 3 to show as a picture")
    data = plan_data(dataset, settings, None, usable_cores(), display)
    shown = preview(data, values.count, settings.seed, values.epoch - 1)
    sheet = contact_sheet(shown, dataset.class_names, dataset.image_shape)
    try:
        sheet.save(Path(values.output), format="PNG")
    except OSError as error:
        raise SettingsError(f"cannot write {values.output}: {error.strerror}; name another --output") from None
    standard_output().say(
        f"{one_line(values.output)}: {several(len(shown), 'image')} of {one_line(dataset.name)}, "
        f"augmentation {data.augmentation}"
    )
    return 0
