"""Imports point one way: a package imports from itself and from those before it in the list, without circles."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import adam_mp

ROOT = Path(adam_mp.__file__).parent
ORDER = [
    "clash", "errors", "proposals", "control_groups", "machine", "process", "kernels", "network", "memory", "transport",
    "compute",
    "data", "params", "partitions", "training", "report", "interop", "api", "cli",
]  # fmt: skip
ROOMS = [  # of some layers; what lies beside them in their layer may import from all of them
    "data.reading", "data", "data.serving", "params.run", "params.controller", "params.server", "params.replica",
    "training.settings", "training.folder", "training.data", "training.plan", "training.worker", "training.crew",
    "training.group", "training.replica", "training.epoch", "training",
]  # fmt: skip

# Modules without a test file of their name in their place -> the tests that see them at work.
TESTED_BY = {
    "params.controller.entrance": "system/test_controller.py",
    "params.controller.keeper_thread": "system/test_controller.py",
    "params.controller.record": "params/controller/test_keeper.py",
    "params.controller.state": "params/test_elected.py",
    "params.replica.routes": "params/test_copies.py",
    "params.server.elected_run": "params/test_elected.py",
    "api": "system/test_parents.py",
    "training.group.exchanging": "system/test_groups.py",
    "clash": "system/test_own_files.py",
    "kernels.exponential": "kernels/test_gate.py",
    "network.norms": "network/test_graph.py",
    "cli.inspect": "cli/test_cli.py",
    "cli.keygen": "cli/test_cli.py",
    "cli.main": "cli/test_cli.py",
    "cli.options": "cli/test_cli.py",
    "cli.predict": "cli/test_cli.py",
    "cli.serve_data": "system/test_data_servers.py",
    "cli.serve_params": "system/test_cluster.py",
    "cli.show_data": "cli/test_cli.py",
    "cli.status": "cli/test_cli.py",
    "cli.train": "cli/test_cli.py",
    "compute.conv_backward": "compute/test_context.py",
    "compute.convolution": "compute/test_context.py",
    "compute.expression": "compute/test_optimizer.py",
    "compute.fusion": "compute/test_joining.py",
    "compute.gradient_check": "compute/test_context.py",
    "compute.mail": "compute/test_partitioned.py",
    "compute.measurement": "compute/test_choice.py",
    "compute.normalizing": "compute/test_joining.py",
    "compute.operation": "compute/test_context.py",
    "compute.operations": "compute/test_context.py",
    "compute.updates": "compute/test_context.py",
    "training.plan.requirements": "training/plan/test_plan.py",
    "training.plan.run_plan": "training/plan/test_plan.py",
    "training.settings.texts": "training/settings/test_settings.py",
    "data.normalization": "data/test_pictures.py",
    "data.reading.account": "data/reading/test_layouts.py",
    "data.reading.array_names": "data/reading/test_layouts.py",
    "data.reading.class_folders": "data/reading/test_layouts.py",
    "data.reading.array_files": "data/reading/test_loading.py",
    "data.reading.faults": "data/reading/test_loading.py",
    "data.reading.image_folder": "data/reading/test_loading.py",
    "data.reading.image_kinds": "data/reading/test_layouts.py",
    "data.reading.items": "data/reading/test_loading.py",
    "data.reading.picture_form": "data/reading/test_loading.py",
    "data.reading.part_folders": "data/reading/test_layouts.py",
    "data.reading.records": "data/reading/test_loading.py",
    "data.reading.samples": "data/reading/test_dataset.py",
    "data.reading.shard_samples": "data/reading/test_layouts.py",
    "data.reading.shards": "data/reading/test_loading.py",
    "data.reading.sources": "data/reading/test_loading.py",
    "data.serving.answer_slots": "data/serving/test_makers.py",
    "data.serving.blame": "data/serving/test_makers.py",
    "data.serving.picture_maker": "data/serving/test_makers.py",
    "data.serving.picture_messages": "data/serving/test_remote.py",
    "data.serving.picture_service": "data/serving/test_remote.py",
    "data.survey": "training/data/test_surveying.py",
    "errors": "cli/test_cli.py",
    "kernels.edge": "kernels/test_product.py",
    "kernels.sampling": "kernels/test_warp.py",
    "kernels.tile": "kernels/test_product.py",
    "kernels.vector": "kernels/test_widths.py",
    "network.expansion": "network/test_graph.py",
    "network.joins": "network/test_graph.py",
    "network.layer": "network/test_description.py",
    "network.layers": "network/test_description.py",
    "network.tables": "network/test_description.py",
    "network.part_layers": "network/test_partition.py",
    "network.spread": "network/test_partition.py",
    "network.zoo": "network/test_network.py",
    "training.worker.lanes": "system/test_partitions.py",
    "training.worker.leading": "system/test_partitions.py",
    "training.worker.member": "system/test_partitions.py",
    "training.worker.scoring": "system/test_partitions.py",
    "training.worker.spec": "training/worker/test_worker.py",
    "partitions.frames": "partitions/test_courier.py",
    "partitions.statements": "partitions/test_lines.py",
    "partitions.own_side": "partitions/test_lines.py",
    "partitions.leader_side": "partitions/test_lines.py",
    "training.group.following": "system/test_machines.py",
    "training.group.gathering": "system/test_machines.py",
    "training.group.task": "system/test_machines.py",
    "training.plan.group_shape": "memory/test_group.py",
    "params.replica.cut": "params/replica/test_factors.py",
    "params.replica.deltas": "params/replica/test_exchange.py",
    "params.replica.matrices": "params/replica/test_factors.py",
    "params.run.announcements": "params/server/test_run_view.py",
    "params.run.coordinator_service": "params/run/test_coordinator.py",
    "params.run.course": "params/run/test_coordinator.py",
    "params.run.epoch_batches": "params/run/test_coordinator.py",
    "params.run.leadership": "params/run/test_coordinator.py",
    "params.run.news": "params/run/test_coordinator.py",
    "params.run.replies": "params/replica/test_exchange.py",
    "params.run.roster": "params/test_returning.py",
    "params.run.run_facts": "training/replica/test_shared_leases.py",
    "params.run.statements": "params/server/test_server.py",
    "params.run.update_counts": "params/run/test_coordinator.py",
    "params.server.admission": "params/server/test_server.py",
    "params.server.buffers": "params/server/test_answers.py",
    "params.server.server_memory": "params/server/test_server.py",
    "params.server.serving": "params/server/test_server.py",
    "params.server.shard_table": "params/server/test_persistence.py",
    "params.server.traffic": "params/server/test_server.py",
    "process.interpreter": "system/test_own_files.py",
    "process.entry": "process/test_child.py",
    "process.fork_server": "process/test_forking.py",
    "process.sibling": "process/test_forking.py",
    "process.stacks": "process/test_child.py",
    "report.cluster_text": "report/test_report.py",
    "report.contact_sheet": "cli/test_cli.py",
    "report.curves": "report/test_report.py",
    "report.failures": "report/test_report.py",
    "report.metrics": "report/test_report.py",
    "report.progress": "report/test_report.py",
    "report.speed": "cli/test_bench.py",
    "report.text": "report/test_report.py",
    "training.benchmark": "cli/test_bench.py",
    "training.crew.copies": "training/crew/test_session.py",
    "training.crew.preparation": "training/crew/test_session.py",
    "training.data.kept_images": "training/data/test_surveying.py",
    "training.data.preview": "cli/test_cli.py",
    "training.folder.figures": "training/epoch/test_run_account.py",
    "training.plan.calibration": "system/test_norms.py",
    "training.plan.quorum": "training/test_arithmetic.py",
    "training.plan.split": "training/test_arithmetic.py",
    "training.plan.same_data": "data/reading/test_fingerprint.py",
    "training.preloading": "training/crew/test_session.py",
    "training.replica.launched": "system/test_cluster.py",
    "training.replica.leases": "training/replica/test_shared_leases.py",
    "training.settings.consistency": "training/worker/test_bounded.py",
    "training.settings.events": "report/test_report.py",
    "training.settings.schedule": "training/test_arithmetic.py",
    "training.worker.step": "training/worker/test_worker.py",
    "transport.endpoint": "transport/test_zeromq.py",
    "transport.local": "params/replica/test_factors.py",
    "transport.places": "transport/test_socket_files.py",
    "transport.refusal": "params/run/test_server_places.py",
    "transport.sim": "params/server/test_loop.py",
}


def imports(path):
    """The modules of adam_mp that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("adam_mp"):
            yield node.module
            for alias in node.names:
                if (ROOT / Path(*node.module.split(".")[1:]) / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("adam_mp"))


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield ".".join(("adam_mp", *(part for part in parts if part != "__init__"))), path


def test_imports_point_one_way():
    wrong = []
    for name, path in modules():
        layer = ORDER.index(name.split(".")[1])
        for imported in imports(path):
            parts = imported.split(".")
            if len(parts) > 1 and ORDER.index(parts[1]) > layer:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def room(name):
    """The place in ROOMS of a module of adam_mp, None for one of a layer without rooms."""
    inside, _, _ = name.removeprefix("adam_mp.").rpartition(".")
    return ROOMS.index(inside) if inside in ROOMS else None


def test_rooms_import_from_those_before_them():
    wrong = []
    files = dict(modules())
    for name, path in files.items():
        if path.name == "__init__.py" or room(name) is None:
            continue
        for imported in imports(path):
            if imported in files and files[imported].name != "__init__.py" and (room(imported) or 0) > room(name):
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_every_folder_of_a_layer_with_rooms_is_one():
    layers = {entry.split(".")[0] for entry in ROOMS}
    folders = {".".join(path.relative_to(ROOT).parts[:-1]) for layer in layers for path in (ROOT / layer).rglob("*.py")}
    assert folders - set(ROOMS) <= {"params"}  # in which itself nothing lies


def test_the_map_lists_the_layers_in_this_order():
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^  ([a-z_]+)(?:/|\.py) ", text, re.MULTILINE)
    assert listed == [layer for layer in ORDER if layer != "interop"]  # which has a place, and nothing in it yet
    rooms = re.findall(r"^    ([a-z_]+)/ ", text, re.MULTILINE)
    assert rooms == [entry.rpartition(".")[2] for entry in ROOMS if "." in entry]


def architecture():
    return (ROOT.parent / "docs" / "architecture.md").read_text()


def test_the_map_names_every_module_where_it_is():
    tree, inside, named = architecture().split("## Layers")[1].split("```")[1], "", {}
    for line in tree.splitlines():
        layer, inner = re.match(r"  ([a-z_]+)(?:/|\.py) ", line), re.match(r"    ([a-z_]+)/ ", line)
        if layer:
            top = inside = layer[1]
        elif inner:
            inside = f"{top}.{inner[1]}"
        named.setdefault(inside, set()).update(re.findall(r"\w+", line))
    missing = []
    for name, path in modules():
        inside, _, own = name.removeprefix("adam_mp.").rpartition(".")
        if path.name != "__init__.py" and own not in named.get(inside or own, ()):
            missing.append(name)
    assert not missing


def test_the_map_names_only_what_exists():
    quoted = re.findall(r"`([^`\n]+)`", architecture())
    files = {each for each in quoted if re.fullmatch(r"[\w/]+\.py|[a-z_]+(/[a-z_]+)*/", each)}
    places = (ROOT, ROOT / "training" / "epoch", ROOT.parent)
    wrong = [each for each in files if not any((place / each).exists() for place in places) and each != "interop/"]
    sources = [path.read_text() for _, path in modules()]
    for each in quoted:
        if named := re.fullmatch(r"([A-Z]\w+)\.(\w+)", each):
            owners = [text for text in sources if f"class {named[1]}" in text]
            if not any(re.search(rf"\b{named[2]}(\(|: |,| =)", text) for text in owners):
                wrong.append(each)
    assert len(files) > 50
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = {name: {i for i in imports(path) if i != name} for name, path in modules()}
    packages = {name for name in graph if (ROOT / Path(*name.split(".")[1:]) / "__init__.py").exists()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done or name not in graph:
            return
        path.append(name)
        for imported in graph[name] - (packages if name in packages else set()):
            visit(imported)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_every_module_says_what_it_is_for():
    for name, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), name


def test_the_docstrings_of_trainings_rooms_name_their_modules():
    missing = []
    for init in (ROOT / "training").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        names = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
        missing += [f"{init.parent.name}/{name}" for name in names if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_each_module_has_its_tests():
    tests, own = Path(__file__).parent, set()
    for name, path in modules():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        inside = name.removeprefix("adam_mp.")
        place = tests.joinpath(*inside.split(".")[:-1], f"test_{path.stem}.py")
        if place.exists():
            own.add(inside)
        else:
            assert inside in TESTED_BY, f"{name} has no {place.relative_to(tests)}; write it, or name its tests above"
            assert (tests / TESTED_BY[inside]).exists(), f"{TESTED_BY[inside]}, which is to test {name}, does not exist"
    assert not own & set(TESTED_BY), "these have tests of their own"
    assert {f"adam_mp.{inside}" for inside in TESTED_BY} <= {name for name, _ in modules()}


def test_nothing_is_decided_by_the_clock_of_the_day():
    """It may jump, and differs between machines; only the name of a new run folder has it."""
    reads = re.compile(
        r"\btime\.(time|time_ns|localtime|gmtime|strftime|ctime)\(|datetime\.now\(|\b(utcnow|today)\(|_REALTIME"
    )
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if reads.search(path.read_text())]
    assert found == ["training/folder/run_folder.py"]
