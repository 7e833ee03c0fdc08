"""`adam-mp evaluate`: accuracy and loss of a trained model on test data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from adam_mp.cli.options import Parser, add_common, add_reading, add_views, parse, reading_of
from adam_mp.compute.model import MODEL_FILE, load
from adam_mp.errors import RunFolderError, SettingsError, several
from adam_mp.process.output import one_line, standard_output
from adam_mp.report.progress import notices_only
from adam_mp.report.text import percent
from adam_mp.training.evaluation import TrainedOn, evaluate_model
from adam_mp.training.folder.checkpoint import read_identity
from adam_mp.training.folder.places import GIVEN, find_path
from adam_mp.training.folder.run_folder import RUN_FILE, read_record


def run(arguments: Sequence[str]) -> int:
    """Measure a model's accuracy and loss on the test part of a data set."""
    parser = Parser(prog="adam-mp evaluate", description="Measure a trained model on test data, on all cores.")
    parser.add_argument("run", metavar="RUN", help="run folder or model file")
    parser.add_argument(
        "--data",
        metavar="DIR|SHARDS|FILE",
        help="all that `train --data` takes: class folders, IDX files, tar shards, .npy or .npz files, or 'mnist'; its "
        "test part is used, all of it if it has no parts (default: the data of the run)",
    )
    add_reading(parser, ("follow_links", "pixel_limit", "ignore_orientation", "white"))
    add_views(parser)
    parser.add_argument("--cores", metavar="N", type=int, help="cores to use (default: all usable)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_common(parser)
    values = parse(parser, arguments)
    path = Path(values.run)
    if not path.exists():
        raise RunFolderError(f"{path} does not exist; expected a run folder or a model file")
    model, source = load(path), values.data
    if source is None:
        if not (path / RUN_FILE).is_file():
            raise SettingsError(f"{path} does not say what data it was trained on; give --data DIR, or --data mnist")
        source = _data_of(path)
    options = reading_of(path, model, values)
    result = evaluate_model(
        model, source, values.cores, notices_only, options, _trained_on(path, source), own=values.data is None,
        views=values.views,
    )  # fmt: skip
    standard_output().answer(
        json.dumps(result.as_dict())
        if values.json
        else f"accuracy {percent(result.accuracy)}, loss {result.loss:.4f} on {several(result.images, 'test image')} "
        f"of {one_line(source)} in {result.seconds:.1f} s"
    )
    return 0


def _data_of(run: Path) -> str:
    """Return the data of a run, where they are now; raises RunFolderError if they are gone or were objects."""
    record = read_record(run)
    if record["settings"].get("data") == GIVEN:
        raise RunFolderError(f"the run in {run} was given its data by the caller; give --data with images to test on")
    return str(find_path(run, record, "data"))


def _trained_on(run: Path, source: str) -> TrainedOn | None:
    """Return what is known of the data that a run was trained on; None if the model's run is not known."""
    run = run.parent if run.name == MODEL_FILE and run.is_file() else run
    if not (run / RUN_FILE).is_file():
        return None
    settings, identity = read_record(run)["settings"], read_identity(run)
    data = settings.get("data")
    same_place = isinstance(data, str) and Path(data).resolve() == Path(source).resolve()
    return TrainedOn(identity, same_place, float(settings.get("validation", 0)), int(settings.get("seed", 0)))
