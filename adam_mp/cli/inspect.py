"""`adam-mp inspect`: what a run folder or a model file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.model import MODEL_FILE, load, which_folder
from adam_mp.errors import RunFolderError, SettingsError, several, shown
from adam_mp.memory.segment import megabytes
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.description import load_network, to_json
from adam_mp.network.network import Network
from adam_mp.process.output import one_line, standard_output
from adam_mp.report.metrics import read_metrics
from adam_mp.report.partitions import partition_facts, partition_text
from adam_mp.report.text import count, data_lines, kernels_text, network_table, percent
from adam_mp.training.folder.run_folder import RUN_FILE, read_record

_FEW_CLASSES = 12  # classes that a line names; then it says how many more there are


def run(arguments: Sequence[str]) -> int:
    """Show layers, counts, settings, epochs and files of a run folder or model file; what is understood of --data."""
    parser = Parser(prog="adam-mp inspect", description="Show what a run folder or a model file holds.")
    parser.add_argument("run", metavar="RUN", help="run folder or model file; with --partitions, a model's name too")
    parser.add_argument("--data", metavar="DIR", help="say too what is understood of this data, and train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_partitions(parser)
    add_common(parser)
    values = parse(parser, arguments)
    path = Path(values.run)
    if values.partitions is not None:
        if values.data is not None:
            raise SettingsError("--data says what is understood of data, --partitions how a model is cut; give one")
        facts = _partitioned(path, values)
        standard_output().answer(json.dumps(facts) if values.json else partition_text(facts["network"], facts))
        return 0
    for flag in ("--cut", "--image", "--classes", "--batch-size"):
        if any(each.partition("=")[0] == flag for each in arguments):
            raise SettingsError(f"{flag} is for showing how a model is cut; give --partitions P too")
    if not path.exists():
        raise RunFolderError(
            f"{path} does not exist; expected a run folder or a model file, or with --partitions the name of a model"
        )
    facts = gather(path)
    if values.data is not None:
        facts["data"] = _understood(values.data)
    standard_output().answer(json.dumps(facts) if values.json else describe(path, facts))
    return 0


def _add_partitions(parser: Parser) -> None:
    parser.add_argument(
        "--partitions", type=int, metavar="P", help="show what each of P partitions would have, and send"
    )
    parser.add_argument("--cut", default="auto", metavar="TEXT", help="how layers are cut, such as conv*=rows (auto)")
    parser.add_argument("--image", metavar="HxWxC", help="size of the images, for a model's name: 224x224x3")
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes, for a model's name")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images in a batch (32)")


def _partitioned(path: Path, values: Any) -> dict[str, Any]:
    """Return the facts about a network that is cut over partitions; loads kernels, to time the work."""
    from adam_mp.compute.part_measurement import part_bytes, part_seconds
    from adam_mp.kernels.compilation import compile_kernels

    network = _network_of(path, values)
    if values.batch_size < 1:
        raise SettingsError(f"--batch-size is {values.batch_size}; expected at least 1")
    plan = plan_partitions(network, values.partitions, values.cut, values.batch_size)
    compile_kernels("float32")
    sizes = [part_bytes(plan, part, values.batch_size) for part in range(plan.parts)]
    slowest = max(range(plan.parts), key=lambda part: plan.graphs[part].connections)
    seconds = part_seconds(plan, slowest, values.batch_size)
    return {"network": network.name, **partition_facts(plan, values.batch_size, sizes, seconds)}


def _network_of(path: Path, values: Any) -> Network:
    if (path.is_file() and path.suffix != ".toml") or (path / RUN_FILE).is_file():
        return load(path / MODEL_FILE if path.is_dir() else path).network
    sides = (values.image or "").split("x")
    if values.classes is None or len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        given = f"--image is {shown(values.image)}" if values.image else "--image is not given"
        raise SettingsError(
            f"{given} for the model {shown(str(path))}; expected --image HEIGHTxWIDTHxCHANNELS and --classes N, such "
            "as --image 224x224x3 --classes 1000"
        )
    return load_network(str(path), (int(sides[0]), int(sides[1]), int(sides[2])), values.classes)


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
