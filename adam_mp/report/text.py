"""A run in words: the plan before it, the line of each epoch, the summary after it; and numbers as text."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adam_mp.errors import several, spoken
from adam_mp.memory.segment import megabytes
from adam_mp.memory.staleness import LABELS, quantile
from adam_mp.network.graph import INPUT
from adam_mp.process.interruption import EXIT_CODES
from adam_mp.process.output import one_line

if TYPE_CHECKING:  # quick commands use this module too, and must not import `training` for it
    from adam_mp.compute.choice import KernelChoices
    from adam_mp.network.network import Network
    from adam_mp.training.settings.events import DataUnderstood, EpochEnded, RunPlanned
    from adam_mp.training.trainer import TrainResult


def count(number: float) -> str:
    """Return a number with three digits and a unit prefix: 2.49 M, 11.4 G."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Return a time span as text: 42.3 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage, "none" for None."""
    return "none" if fraction is None else f"{100 * fraction:.2f}%"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as lines with aligned columns: the first two to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )  # fmt: skip


def network_table(network: Network) -> str:
    """Return a table of a network's layers with shapes, parameters and connections."""
    rows = [("layer", "", "output", "parameters", "connections")]
    before = INPUT
    for node, shape_in, shape_out, connections in zip(
        network.nodes, network.input_shapes, network.shapes[1:], network.connection_counts, strict=True
    ):
        numbers = sum(_product(shape) for shape in node.layer.parameters(shape_in).values())
        fields = [f"{field} {value}" for field, value in node.layer.settings().items() if value is not None]
        inputs = node.inputs
        if inputs != (before,):  # of a plain row each layer reads the one above
            fields.append(f"of {', '.join(inputs)}")
        before = node.name
        rows.append(
            (
                before,
                ", ".join(fields),
                "x".join(map(str, shape_out)),
                f"{numbers:,}" if numbers else "",
                f"{connections:,}" if connections else "",
            )
        )
    rows.append(("total", "", "", f"{network.parameter_count:,}", f"{network.connections:,}"))
    return table(rows)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for side in shape:
        result *= side
    return result


def kernels_text(choices: KernelChoices) -> str:
    """Return in words which kernels were chosen: images a block, and how each layer runs backward."""
    ways = ", ".join(f"{name} {way}" for name, way in choices.ways_back.items())
    return f"images in blocks of {choices.block}" + (f"; backward: {ways}" if ways else "")


_FEW_CLASSES = 12  # classes that a line names; then it says how many more there are


def data_text(data: DataUnderstood) -> str:
    """Return the lines that say what was understood of the data, as `data_lines` does, for a run."""
    return spoken(data_lines(data.as_dict()))


def data_lines(data: Mapping[str, Any]) -> str:
    """Return the lines that say what was understood of the data, from a `DataUnderstood` as run.json keeps it."""
    parts, places = data["parts"], data["places"]

    def part(name: str, use: str) -> str:
        place = f" ({one_line(places[name])})" if name in places else ""
        return f"{several(parts[name], 'image')} to {use}{place}"

    held_out = " (held out of these)" if data["held_out"] else ""
    lines = [
        f"understood {one_line(data['name'])}: {data['layout'] or 'samples'}; {data['pixels']}",
        f"parts      {part('train', 'train')}, {part('validation', 'validate')}{held_out}, {part('test', 'test')}",
        f"classes    {classes_text(data['class_names'], data['class_counts']['train'])} to train",
    ]
    if data["files_left_out"]:
        lines.append(
            f"left out   {several(data['files_left_out'], 'file')}: {', '.join(map(one_line, data['left_out']))}"
        )
    return "\n".join(lines)


def classes_text(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return the number of classes, and the first of them by name with the images of each."""
    named = ", ".join(
        f"{one_line(name)} {number:,}" for name, number in zip(names[:_FEW_CLASSES], counts, strict=False)
    )
    more = f" and {len(names) - _FEW_CLASSES:,} more" if len(names) > _FEW_CLASSES else ""
    return f"{len(names):,}: {named}{more}"


def plan_text(plan: RunPlanned) -> str:
    """Return the lines that say, before a run, what will run."""
    network, settings = plan.network, plan.settings
    height, width, channels = network.input_shape
    memory = plan.shared_bytes + plan.workers * plan.worker_bytes
    held_out = f", {plan.validation_images:,} to validate" if plan.validation_images else ""
    first = f", continuing with epoch {plan.first_epoch}" if plan.first_epoch > 1 else ""
    return "\n".join(
        [
            f"network    {one_line(network.name)}: {count(network.parameter_count)} parameters, "
            f"{count(network.connections)} connections an image",
            network_table(network),
            f"data       {one_line(plan.data_name)}: {several(plan.train_images, 'image')} to train{held_out}, "
            f"{plan.test_images:,} to test; {height}x{width}x{channels}, "
            f"{several(network.classes, 'class', 'classes')}; "
            f"augmentation {plan.augmentation}",
            f"training   {several(settings.epochs, 'epoch')} of batches of {settings.batch_size}{first}; "
            f"{settings.optimizer}, learning rate {settings.lr}; {settings.consistency}",
            f"processes  {several(plan.workers, 'worker')} and {several(plan.data_servers, 'data server')} "
            f"on {plan.cores} of {several(plan.usable_cores, 'usable core')}"
            + (f"; pictures are made by {one_line(settings.data_from)}" if settings.data_from else ""),
            f"kernels    {kernels_text(plan.kernels)}",
            f"memory     {megabytes(memory)}: {megabytes(plan.shared_bytes)} shared, "
            f"{megabytes(plan.worker_bytes)} a worker beyond its interpreter",
            *([f"cache      up to {megabytes(plan.cache_bytes)} of decoded images"] if plan.cache_bytes else []),
            *([protocols_text(plan)] if plan.protocols else []),
            f"run folder {one_line(plan.folder)}",
        ]
    )


def protocols_text(plan: RunPlanned) -> str:
    """Return a table of each layer's protocol to the parameter servers, with the bytes of both protocols."""
    rows: list[tuple[str, ...]] = [("layer", "protocol", "as deltas", "as activations")]
    for each in plan.protocols:
        other = "" if each.activations_bytes is None else megabytes(each.activations_bytes)
        rows.append((each.layer, each.protocol, megabytes(each.deltas_bytes), other))
    return f"exchange   every {several(plan.settings.exchange_images, 'image')}, with parameter servers\n{table(rows)}"


def epoch_line(epoch: EpochEnded, epochs: int) -> str:
    """Return the line of a finished epoch."""
    validation = "" if epoch.validation_accuracy is None else f"  validation {percent(epoch.validation_accuracy)}"
    return (
        f"epoch {epoch.epoch}/{epochs}  {several(epoch.images_trained, 'image')} in {duration(epoch.seconds)}  "
        f"{epoch.images_per_second:,.0f} images/s  {count(epoch.connections_per_second)} connections/s  "
        f"loss {epoch.loss:.4f}{validation}  waited {waits_text(epoch)}"
    )


_WAITS = {"data": "data", "leases": "leases", "exchange": "the exchange", "others": "other workers"}


_LEAST_WAIT = 0.00005  # a smaller share is shown as 0


def waits_text(figures: EpochEnded | TrainResult) -> str:
    """Return the shares of the workers' time in which they waited, by what for; what rounds to 0 is left out."""
    shares = {what: getattr(figures, f"{name}_wait_fraction") for name, what in _WAITS.items()}
    parts = [f"{percent(share)} for {what}" for what, share in shares.items() if share >= _LEAST_WAIT]
    return ", ".join(parts) or percent(0.0)


def serving_text(result: TrainResult) -> str:
    """Return the line about the data: share found in the cache, speeds on one core, the bottleneck of the run."""
    held_up = "training" if result.bottleneck == "training" else f"waiting for {_WAITS[result.bottleneck]}"
    if result.data_from_elsewhere:
        return spoken(f"data       made by the data servers of --data-from; the bottleneck was {held_up}")
    wanted = result.images_decoded + result.cache_hits
    decoded = f"{percent(result.cache_hits / wanted)} found in the cache, " if wanted else ""
    if result.images_decoded:
        decoded += f"{result.decodes_per_second:,.0f} images/s decoded, "
    return (
        f"data       {decoded}{result.augments_per_second:,.0f} images/s augmented, a core; "
        f"the bottleneck was {held_up}"
    )


def _staleness(result: TrainResult) -> str:
    counts = [result.staleness.get(label, 0) for label in LABELS]
    if not any(counts):
        return ", none of them made here" if result.of_many else ""
    if result.of_many and result.workers == 1:
        return ""  # only other machines make updates between a read and an update here; `status` shows that staleness
    middle, most = quantile(counts, 0.5), quantile(counts, 0.99)
    where = " among the workers here" if result.of_many else ""
    return f", staleness{where} {result.staleness_mean:.2f} on average, median {middle}, {most} or less in 99 of 100"


def workers_text(result: TrainResult) -> str:
    """Return a table of what each worker, or group of workers, has done since the run was started or resumed."""
    who = "worker" if len(result.per_worker) == result.workers else "group"
    rows: list[tuple[str, ...]] = [
        (who, "", "images", "share", "images/s", "waited for data", "leases", "exchange", "others", "most ahead")
    ]
    rows += [
        (
            str(each.number), "", f"{each.images:,}", percent(each.share), f"{each.images_per_second:,.0f}",
            duration(each.waited_seconds), duration(each.leases_seconds), duration(each.exchange_seconds),
            duration(each.held_seconds), str(each.lead) if each.lead else "",
        )
        for each in result.per_worker
    ]  # fmt: skip
    return table(rows)


def _speed_here(result: TrainResult) -> str:
    """Return this machine's own speed, if the other figures are those of all machines of the run."""
    if not result.of_many:
        return ""
    return f" by all machines, {sum(each.images_per_second for each in result.per_worker):,.0f} images/s here"


def _here(result: TrainResult) -> str:
    return f" by all machines ({sum(each.images for each in result.per_worker):,} here)" if result.of_many else ""


def summary_text(result: TrainResult) -> str:
    """Return the lines that say, after a run, what it has reached."""
    ended = f"stopped by {result.stopped_by} after" if result.stopped_by else "done:"
    best = f" (best: epoch {result.best_epoch})" if result.best_epoch else ""
    test = percent(result.test_accuracy) if result.test_accuracy is not None else "not measured"
    names = [path.name for path in Path(result.run_dir).glob("[!.]*")]
    bad = f" ({several(result.bad_samples, 'bad file')}, see bad_samples.jsonl)" if result.bad_samples else ""
    lines = [
        f"{ended} {several(result.epochs, 'epoch')} in {duration(result.seconds)}",
        f"accuracy   test {test}, validation {percent(result.validation_accuracy)}{best}",
        f"speed      {result.images_per_second:,.0f} images/s, {count(result.connections_per_second)} connections/s"
        f"{_speed_here(result)}, "
        f"workers waited {waits_text(result)} of their time",
        f"images     {result.images_trained:,} trained{_here(result)}, {result.images_skipped:,} skipped, "
        f"{result.images_failed:,} failed{bad}",
        serving_text(result),
        f"updates    {result.updates:,}{_staleness(result)}",
        workers_text(result),
        f"files      {one_line(result.run_dir)}: {', '.join(map(one_line, sorted(names)))}",
    ]
    if result.stopped_by in EXIT_CODES:
        lines.append(f"go on with python -m adam_mp train --resume {shlex.quote(result.run_dir)}")
    return "\n".join(lines)
