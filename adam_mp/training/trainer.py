"""Training as a function call: plan a run, supervise it, and return its result."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adam_mp.compute.model import Model, load, read_weights
from adam_mp.errors import AdamError, JoinError, RunFolderError, StoppedError, TransportError, refusal
from adam_mp.kernels.compilation import cache_trouble
from adam_mp.machine import usable_cores
from adam_mp.memory.staleness import labelled
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import EXIT_CODES, Interruption, stacks_when_asked
from adam_mp.process.output import notice, one_line, standard_error
from adam_mp.training.crew.copies import evaluated_tensors
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.epoch.hints import bottleneck
from adam_mp.training.epoch.supervisor import Supervisor
from adam_mp.training.folder.checkpoint import checkpoint_path, find_checkpoints
from adam_mp.training.folder.figures import WAITS, Sums, Waits, WorkerFigures
from adam_mp.training.folder.run_folder import RunFolder, write_record
from adam_mp.training.plan.memory_need import group_bytes, launch_need, worker_bytes
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.preloading import OF_A_RUN
from adam_mp.training.settings.combinations import OF_SERVERS
from adam_mp.training.settings.events import Event, Listener, Notice, RunEnded, RunPlanned, notices_to
from adam_mp.training.settings.settings import FIELDS, TrainSettings

if TYPE_CHECKING:  # a run of one machine does not import what runs of many need
    from adam_mp.training.replica.joining import Cluster
    from adam_mp.training.replica.launch import Launch, ReplicaTask

_CHECKPOINTS_ON_DISK = 3  # two kept, one being written


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of a run. All figures are counted over the whole run, the parts before a resume included.

    `model` has the weights of the best epoch by validation (of the last epoch if no images are held out), and
    `test_accuracy` is its accuracy; None if there is no test set, the run was interrupted, or another replica leads.
    `images_per_second` is what all machines of the run trained while this one did, over the time that this one spent
    training. `connections_per_second` is images per second times connections of one forward pass. In a run of many
    machines, these two rates, `updates` and the images trained, skipped and failed are of all machines, all else of
    this one. `images_failed` counts images of trained batches that could not be read, once per epoch; `bad_samples`
    counts the files that were left out. `decodes_per_second` and `augments_per_second` are those of one core that does
    nothing else; `bottleneck` is "training", or what the workers waited for more than a tenth of their time: "data",
    "leases", "exchange" or "others", other workers. `of_many` tells whether it was a run of many machines or replicas,
    `data_from_elsewhere` whether data servers of other machines made its pictures. `data_wait_fraction` is the share of
    the workers' time in which they waited for data; `staleness` has how many updates were of each range of staleness.
    `best_epoch` counts from 1. `stopped_by` says what ended the run before its last epoch: a signal or the target
    accuracy, else None. `model` is None where the partitions of the model are on several machines, because this one
    need not have room for all of it.
    """

    test_accuracy: float | None
    validation_accuracy: float | None
    best_epoch: int | None
    epochs: int
    seconds: float
    images_per_second: float
    connections_per_second: float
    images_trained: int
    images_skipped: int
    images_failed: int
    bad_samples: int
    images_decoded: int
    cache_hits: int
    decodes_per_second: float
    augments_per_second: float
    bottleneck: str
    data_wait_fraction: float
    leases_wait_fraction: float
    exchange_wait_fraction: float
    others_wait_fraction: float
    staleness_mean: float
    staleness: dict[str, int]
    updates: int
    workers: int
    data_servers: int
    per_worker: tuple[WorkerFigures, ...]
    stopped_by: str | None
    run_dir: str
    of_many: bool
    data_from_elsewhere: bool
    model: Model | None = dataclasses.field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, without the model."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "model"}
        return {**values, "per_worker": [dataclasses.asdict(each) for each in self.per_worker]}


@stacks_when_asked()
def run_training(
    explicit: Mapping[str, Any], listeners: list[Listener], share: tuple[int, int] = (0, 1)
) -> TrainResult:  # fmt: skip
    """Train with the settings in `explicit` and defaults for the others; `listeners` get the run's events.

    Ctrl-C and other signals that end processes finish the batches and write a checkpoint; a second one raises
    KeyboardInterrupt at once (see `process.interruption`). Raises children of AdamError, those that can be known early
    before any process starts. `share` is that of `RunPlan`.
    """
    tell = _teller(listeners)
    if (trouble := cache_trouble()) is not None:
        tell(Notice(trouble))
    while True:
        with fork_server(OF_A_RUN), KeptImages() as kept:
            plan = dataclasses.replace(make_plan(explicit, tell, kept), share=share)
            folder = _take_folder(plan)
            if folder.trouble is not None:
                tell(Notice(folder.trouble))
            try:
                folder.check_space(plan.file_bytes * _CHECKPOINTS_ON_DISK)
                with Interruption() as interruption:
                    result = _run_with_others(plan, folder, interruption, tell)
                tell(RunEnded(result))
                return result
            except TransportError as error:
                if not _begins_again(error, folder.path):
                    raise
                tell(Notice(f"{error}; going back to the last checkpoint"))
            finally:
                folder.discard_if_empty()
        explicit = {**_without_folder(explicit), "resume": folder.path}


def _begins_again(error: TransportError, folder: Path) -> bool:
    """Return whether a run goes on from its checkpoint: it has lost a partition of its model, which will come again."""
    return _is_lost_partition(error) and bool(find_checkpoints(folder))


def _is_lost_partition(error: TransportError) -> bool:
    from adam_mp.partitions.leader_side import PartitionLostError

    return isinstance(error, PartitionLostError)


def _without_folder(explicit: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in explicit.items() if name not in ("run_dir", "resume")}


def _teller(listeners: list[Listener]) -> Listener:
    """Return a function that hands an event to all listeners.

    A listener only reports. So its error does not end the run, unless it is an AdamError, such as a damaged file of the
    run folder. The first error of each is said.
    """
    failed = set()

    def tell(event: Event) -> None:
        for listener in listeners:
            try:
                listener(event)
            except AdamError:
                raise
            except Exception as error:
                if id(listener) not in failed:
                    failed.add(id(listener))
                    name = getattr(listener, "__name__", type(listener).__name__)
                    notice(f"{name} cannot report {type(event).__name__}: {refusal(error)}; the run goes on")

    return tell


def _take_folder(plan: RunPlan) -> RunFolder:
    """Return the run's folder, locked by this process: that of the resumed run, or a new one."""
    settings = plan.settings
    if plan.resumed is not None:
        assert settings.folder is not None
        folder = RunFolder.reopen(settings.folder)
        newest = find_checkpoints(folder.path)[-1:]
        # The plan read its checkpoint before `reopen` took the lock.
        if newest != [checkpoint_path(folder.path, plan.resumed.number)]:
            folder.close()
            raise RunFolderError(f"another run went on in {folder.path} just now; give --resume again")
        return folder
    name = settings.model if isinstance(settings.model, (str, Path)) else plan.network.name
    return RunFolder.create(settings.folder, str(name))


def train_replica(task: ReplicaTask) -> None:
    """Train as a further replica, in a child of the process that the user started.

    Raises SystemExit with the exit code of a command if a signal ends it, because its part of the run is not done then.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # one that only this replica gets ends it, while it plans too

    def say(event: Event) -> None:
        if isinstance(event, Notice):
            standard_error().say("\n".join(filter(None, (one_line(event.text), event.below))))

    try:
        result = run_training(task.settings, [say], task.share)
    except StoppedError as stopped:
        raise SystemExit(stopped.exit_code) from None
    if (code := EXIT_CODES.get(result.stopped_by or "")) is not None:
        raise SystemExit(code)


def _run_with_others(
    plan: RunPlan, folder: RunFolder, interruption: Interruption, tell: Listener, asked: TrainSettings | None = None
) -> TrainResult:  # fmt: skip
    """Run the plan: alone, as the leader of a group, as a replica of a run, or of a launch (`train --servers`)."""
    settings = plan.settings
    is_trained = plan.resumed is not None and plan.resumed.epoch >= settings.epochs
    if plan.is_replica and is_trained:  # only its model is left to write
        alone = dataclasses.replace(plan, settings=settings.alone())
        return _run_with_others(alone, folder, interruption, tell, settings)
    if plan.is_apart and plan.elsewhere is None:
        return _run_apart(plan, folder, interruption, tell, asked)
    if not plan.is_replica:
        return _run_in(plan, folder, interruption, tell, asked=asked)
    if settings.servers is None:
        return _run_replica(plan, folder, interruption, tell)
    return _run_launch(plan, folder, interruption, tell)


def _run_apart(
    plan: RunPlan, folder: RunFolder, interruption: Interruption, tell: Listener, asked: TrainSettings | None
) -> TrainResult:  # fmt: skip
    """Run the plan as the leader of a group whose other partitions are on other machines."""
    from adam_mp.training.group.gathering import gathered

    def begins_again() -> bool:
        return interruption.requested is None and bool(find_checkpoints(folder.path))

    try:
        with gathered(
            plan, lambda: interruption.requested is not None, notices_to(tell), begins_again
        ) as complete:  # fmt: skip
            return _run_with_others(complete, folder, interruption, tell, asked)
    except TransportError as error:
        if interruption.requested is None or not (isinstance(error, StoppedError) or _is_lost_partition(error)):
            raise
        todo = "start it again to go on"
        if find_checkpoints(folder.path):
            todo = f"go on with: adam-mp train --resume {folder.path}"
        told = StoppedError(f"{str(error).partition(';')[0]}; {todo}")
        told.exit_code = 128 + signal.Signals[interruption.requested]
        raise told from None


def _run_launch(plan: RunPlan, folder: RunFolder, interruption: Interruption, tell: Listener) -> TrainResult:
    """Run the plan as the first replica of a launch, whose parameter servers and replicas are children."""
    from adam_mp.params.run.copy_groups import count_groups
    from adam_mp.training.replica.joining import plan_factors, plan_protocols
    from adam_mp.training.replica.launch import Launch, LaunchShape

    settings = plan.settings
    assert settings.servers is not None
    groups = count_groups(settings.servers, settings.copies)
    if settings.copies > settings.servers:
        tell(Notice(f"--copies is {settings.copies}, --servers {settings.servers}: all servers have all weights"))
    launch_need(plan, plan_factors(plan, plan_protocols(plan, groups))).check(
        "the run", None if settings.memory_dir is None else Path(settings.memory_dir), plan.data.kept_images
    )
    # Further replicas get all settings, not only those that were given: a resumed run has taken most from its folder.
    for_replicas = {name: getattr(settings, name) for name in FIELDS}
    for name in ("servers", *OF_SERVERS, "resume", "target_accuracy"):
        for_replicas.pop(name)
    for_replicas["cores"] = plan.cores
    if not plan.data.dataset.options.clipped:
        for_replicas["white"] = None  # they measure it as this one did
    of_servers: dict[str, Any] = {name: FIELDS[name].default for name in OF_SERVERS}
    with Launch(
        folder.path, LaunchShape.of(settings), for_replicas, settings.restarts, train_replica,
        lambda: interruption.requested is not None, notices_to(tell),
    ) as launch:  # fmt: skip
        own = dataclasses.replace(settings, servers=None, join=launch.address, **of_servers)
        joined = dataclasses.replace(plan, settings=own, share=(0, settings.replicas))
        result = _run_replica(joined, folder, interruption, tell, launch, settings)
        launch.ending = result.stopped_by is None
        return result


def _run_replica(
    plan: RunPlan, folder: RunFolder, interruption: Interruption, tell: Listener, launch: Launch | None = None,
    asked: TrainSettings | None = None,
) -> TrainResult:  # fmt: skip
    """Join the run that the plan's settings name, and run the plan; `launch` has the parts that are children here."""
    from adam_mp.training.replica.joining import join_cluster

    def stop() -> bool:
        if launch is not None:
            launch.step()
        if plan.elsewhere is not None:
            plan.elsewhere.step()
        return interruption.requested is not None

    def say(text: str) -> None:
        if launch is None and plan.share == (0, 1):  # in a launch, nobody has to start what is missing
            tell(Notice(text))

    try:
        cluster = join_cluster(plan, stop, say)
    except StoppedError as stopped:
        assert interruption.requested is not None
        stopped.exit_code = 128 + signal.Signals[interruption.requested]
        raise
    except JoinError:
        raise
    except TransportError as error:
        if launch is not None or plan.resumed is None or _is_lost_partition(error):
            raise
        raise TransportError(f"{error}; to go on without that run, give --join none") from None
    if launch is not None:
        launch.link = cluster.link
    try:
        return _run_in(plan, folder, interruption, tell, cluster, launch, asked)
    finally:
        cluster.close()


def _run_in(
    plan: RunPlan, folder: RunFolder, interruption: Interruption, tell: Listener, cluster: Cluster | None = None,
    launch: Launch | None = None, asked: TrainSettings | None = None,
) -> TrainResult:  # fmt: skip
    """Run the plan. The run folder keeps the settings that the user `asked` for, if the plan's are not the same."""
    asked = asked or plan.settings
    announcement = _announce(plan, folder, cluster)
    with Supervisor(plan, folder.path, interruption, tell, cluster, launch) as supervisor:
        counted = ("train_images", "validation_images", "test_images", "workers", "data_servers", "cores")
        record: dict[str, Any] = {name: getattr(announcement, name) for name in counted}
        record["kernels"] = plan.choices.as_dict()
        data = None if plan.understood is None else plan.understood.as_dict()
        write_record(folder.path, asked, plan.network, record, None, data)
        tell(announcement)
        stopped_by = supervisor.train()
        path = supervisor.keeper.finish(supervisor.driver.model)
        test_accuracy = None
        leads = supervisor.leases.leads
        supervisor.leases.leave()
        if len(plan.data.test) and leads and not interruption.requested:
            read_weights(path, evaluated_tensors(plan, supervisor.session.store))
            _, test_accuracy = supervisor.test()
        result = _result(supervisor, plan, folder, test_accuracy, stopped_by)
    if not plan.is_apart:  # this machine need not have room for all of the model
        result = dataclasses.replace(result, model=load(path))  # after the store is freed: never both in memory
    try:
        write_record(folder.path, asked, plan.network, record, result.as_dict(), data)
    except RunFolderError as error:
        tell(Notice(f"{error}; the model and all other files are written"))
    return result


def _announce(plan: RunPlan, folder: RunFolder, cluster: Cluster | None) -> RunPlanned:
    first = plan.resumed.epoch if plan.resumed else 0
    if cluster is not None:
        first = cluster.news.epoch
    return RunPlanned(
        settings=plan.settings,
        network=plan.network,
        data_name=plan.data.dataset.name,
        image_type=plan.data.dataset.stored_type,
        train_images=len(plan.data.training),
        validation_images=len(plan.data.validation),
        test_images=len(plan.data.test),
        augmentation=str(plan.data.augmentation),
        cores=plan.cores,
        usable_cores=usable_cores(),
        workers=plan.split.workers,
        data_servers=plan.split.data_servers,
        shared_bytes=plan.run_shape.offsets()[1] + plan.store_bytes + group_bytes(plan),
        cache_bytes=plan.data.cache_bytes,
        worker_bytes=worker_bytes(plan),
        kernels=plan.choices,
        folder=folder.path,
        first_epoch=first + 1,
        protocols=cluster.protocols if cluster is not None else (),
    )


def _result(
    supervisor: Supervisor, plan: RunPlan, folder: RunFolder, test_accuracy: float | None, stopped_by: str | None
) -> TrainResult:
    figures = supervisor.account.figures
    total = figures.total
    part = figures.epoch_part
    sums = supervisor.sums_of_epoch() if part else Sums()
    seconds = figures.training_seconds + part.get("seconds", 0.0)
    waits = Waits.of({name: total(name) for name in (*WAITS, "busy_ns")})
    rate = total("images") / seconds if seconds else 0.0
    return TrainResult(
        test_accuracy=test_accuracy,
        validation_accuracy=figures.validation_accuracy,
        best_epoch=figures.best_epoch,
        epochs=figures.epochs_done,
        seconds=supervisor.account.elapsed(),
        images_per_second=rate,
        connections_per_second=rate * plan.network.connections,
        images_trained=figures.images_trained + sums.trained,
        images_skipped=figures.images_skipped,
        images_failed=figures.images_failed + sums.failed,
        bad_samples=supervisor.bad_samples.count,
        images_decoded=int(total("decoded")),
        cache_hits=int(total("hits")),
        decodes_per_second=_per_second(total("decoded"), total("decode_ns")),
        augments_per_second=_per_second(total("augmented"), total("augment_ns")),
        bottleneck=bottleneck(waits),
        **waits.as_dict(),
        staleness_mean=total("staleness") / max(total("updates"), 1),
        staleness=labelled(figures.staleness_counts),
        updates=supervisor.session.store.read_step(),
        workers=plan.split.workers,
        data_servers=plan.split.data_servers,
        per_worker=tuple(supervisor.session.crew.by_worker(supervisor.account.seconds_here)),
        stopped_by=stopped_by,
        run_dir=str(folder.path),
        of_many=plan.settings.join is not None or plan.settings.servers is not None,
        data_from_elsewhere=plan.settings.data_from is not None,
        model=None,
    )


def _per_second(count: float, nanoseconds: float) -> float:
    return count / (nanoseconds * 1e-9) if nanoseconds else 0.0
