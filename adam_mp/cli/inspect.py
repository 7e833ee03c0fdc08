"""`adam-mp inspect`: what a run folder or a model file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.model import MODEL_FILE, load, which_folder
from adam_mp.errors import RunFolderError, several
from adam_mp.memory.segment import megabytes
from adam_mp.network.description import to_json
from adam_mp.process.output import one_line, standard_output
from adam_mp.report.metrics import read_metrics
from adam_mp.report.text import count, data_lines, kernels_text, network_table, percent
from adam_mp.training.folder.run_folder import RUN_FILE, read_record

_FEW_CLASSES = 12  # classes that a line names; then it says how many more there are


def run(arguments: Sequence[str]) -> int:
    """Show layers, counts, settings, epochs and files of a run folder or model file; what is understood of --data."""
    parser = Parser(prog="adam-mp inspect", description="Show what a run folder or a model file holds.")
    parser.add_argument("run", metavar="RUN", help="run folder or model file")
    parser.add_argument("--data", metavar="DIR", help="say too what is understood of this data, and train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_common(parser)
    values = parse(parser, arguments)
    path = Path(values.run)
    if not path.exists():
        raise RunFolderError(f"{path} does not exist; expected a run folder or a model file")
    facts = gather(path)
    if values.data is not None:
        facts["data"] = _understood(values.data)
    standard_output().answer(json.dumps(facts) if values.json else describe(path, facts))
    return 0


def _understood(data: str) -> dict[str, Any]:
    from adam_mp.training.data.understanding import check_data  # loads kernels, which are needed for --data alone

    return check_data({"data": data}, lambda event: None).as_dict()


def gather(path: Path) -> dict[str, Any]:
    """Return what a run folder or model file holds, as plain values."""
    model_path = path / MODEL_FILE if path.is_dir() else path
    facts: dict[str, Any] = {"path": str(path)}
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no {RUN_FILE}; {which_folder(path)}")
        facts["record"] = read_record(path)
        facts["epochs"] = read_metrics(path)
        facts["files"] = {entry.name: entry.stat().st_size for entry in sorted(path.iterdir()) if entry.name[0] != "."}
    if model_path.is_file():
        model = load(model_path)
        network = model.network
        facts["classes"] = list(model.class_names)
        facts["network"] = json.loads(to_json(network))
        facts["parameters"], facts["connections"] = network.parameter_count, network.connections
        facts["layers"] = [
            {"name": name, "output_shape": shape, "connections": connections}
            for name, shape, connections in zip(
                network.names, network.shapes[1:], network.connection_counts, strict=True
            )
        ]
    return facts


def describe(path: Path, facts: dict[str, Any]) -> str:
    """Return the text to show, from the result of `gather`."""
    lines = [one_line(path)]
    if "network" in facts:
        network = load(path).network
        lines += [
            f"network {one_line(network.name)}: {count(network.parameter_count)} parameters, "
            f"{count(network.connections)} connections",
            network_table(network),
            *([f"classes    {_names(facts['classes'])}"] if facts["classes"] else []),
        ]
    else:
        lines.append("no model yet: no epoch was finished")
    if "record" in facts:
        record = facts["record"]
        if record.get("data"):
            data = record["data"]
            lines += [data_lines(data), *_notes(data)]
        lines.append(
            "settings "
            + ", ".join(f"{name} {one_line(value)}" for name, value in record["settings"].items() if value is not None)
        )
        machine = record["machine"]
        lines.append(
            f"run on   {machine['cpu']}, {several(machine['usable_cores'], 'usable core')}; adam_mp {record['adam_mp']}"
        )
        if "kernels" in record["plan"]:
            lines.append(f"kernels  {kernels_text(KernelChoices.from_dict(record['plan']['kernels']))}")
        rows = facts["epochs"]
        best = max(rows, key=lambda row: (row["validation_accuracy"] or 0, row["epoch"])) if rows else None
        if best:
            lines.append(
                f"epochs   {len(rows)}; best: epoch {best['epoch']}, validation {percent(best['validation_accuracy'])}"
            )
        if record["summary"]:
            lines.append(f"result   test {percent(record['summary']['test_accuracy'])}")
        files = (f"{one_line(name)} ({megabytes(size)})" for name, size in facts["files"].items())
        lines.append("files    " + ", ".join(files))
    if "data" in facts:
        lines += [data_lines(facts["data"]), *_notes(facts["data"])]
    return "\n".join(lines)


def _names(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _FEW_CLASSES:,} more" if len(classes) > _FEW_CLASSES else ""
    return f"{len(classes):,}: {', '.join(map(one_line, classes[:_FEW_CLASSES]))}{more}"


def _notes(data: Mapping[str, Any]) -> list[str]:
    return [f"note       {one_line(note)}" for note in data["notes"]]
