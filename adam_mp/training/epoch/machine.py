"""What a run does next: a pure state machine. An event goes in, actions come out. The time is an argument.

      ┌────────────────────────────────────────────────────────────────────────────────────────────┐
      ▼            over               all idle            closed           evaluated, all idle      │ saved
  TRAINING ───────────────▶ PAUSING ───────────▶ CLOSING ────────▶ VALIDATING, PAUSING ▶ RECORDING ▶ SAVING
      │ ▲  time to save               all idle           saved                                      │
      │ └──────────────── PAUSING ───────────▶ SAVING ────────▶ (back to TRAINING)                  ▼
      │    interrupted                all idle           saved                    target met, or last epoch
      └─────────────────▶ PAUSING ───────────▶ SAVING ────────────────────────────────────▶ ENDED

  diverged, in whatever phase ──▶ PAUSING ──all idle──▶ RETURNING ──went back──▶ TRAINING

Workers touch weights and leases until they have acknowledged IDLE. So the machine closes an epoch, takes a checkpoint
and restores a state only after PAUSING. The successor of a process that dies meanwhile must acknowledge too: at each
look the driver says which processes are behind, and the machine waits until none is.

An action may find that the run has diverged. The driver then leaves out the actions after it, and its next event is
`Diverged`. An action whose outcome decides what comes next is the last of its list, and the outcome is the next event.
"""

from __future__ import annotations

import dataclasses
import enum

from adam_mp.memory.board import IDLE, TRAIN, VALIDATE

REPORT = 0.2  # seconds between two reports of progress


class Phase(enum.Enum):
    """What the machine waits for: something that a look will show, or the outcome of an action."""

    STARTING = "starting"
    TRAINING = "training"
    PAUSING = "pausing"
    CLOSING = "closing"
    VALIDATING = "validating"
    RECORDING = "recording"
    SAVING = "saving"
    RETURNING = "returning"
    ENDED = "ended"


class Purpose(enum.Enum):
    """Why workers are idle, from the order IDLE until they work again."""

    SAVE = "save"  # to take a checkpoint within an epoch
    STOP = "stop"  # to take one and end the run, because it was interrupted
    CLOSE = "close"  # to close an epoch that is over
    RECORD = "record"  # to record an epoch that is closed and validated
    RETURN = "return"  # to go back to the last good state, because the run diverged


class End(enum.Enum):
    """How a run ended."""

    DONE = "done"
    TARGET = "target"
    INTERRUPTED = "interrupted"


# Events.


@dataclasses.dataclass(frozen=True)
class Began:
    """The processes are at work, and `epoch` is open."""

    epoch: int


@dataclasses.dataclass(frozen=True)
class Looked:
    """What a look at the run has shown. Each phase reads some of the fields; the others may be left out.

    TRAINING: whether the epoch is `over`, whether the run was `interrupted`, whether a checkpoint was `asked` for, and
    whether this machine `leads`, that is, validates and keeps checkpoints. PAUSING: which processes are `behind`, that
    is, have not acknowledged the last order. VALIDATING: whether all chunks are `evaluated`.
    """

    over: bool = False
    interrupted: bool = False
    leads: bool = False
    behind: frozenset[int] = frozenset()
    evaluated: bool = False
    asked: bool = False


@dataclasses.dataclass(frozen=True)
class Closed:
    """The epoch is closed; `following` is the one to train next. `leads`: see `Looked`."""

    following: int
    leads: bool


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The epoch is recorded; `accuracy` is that of the last validation, None before any. `leads`: see `Looked`."""

    accuracy: float | None
    leads: bool


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint was taken."""


@dataclasses.dataclass(frozen=True)
class Diverged:
    """The run has diverged; `reason` says how."""

    reason: str


@dataclasses.dataclass(frozen=True)
class WentBack:
    """The last good state is restored, and its `epoch` is open."""

    epoch: int


Event = Began | Looked | Closed | Recorded | Saved | Diverged | WentBack


# Actions.


@dataclasses.dataclass(frozen=True)
class BeginEpoch:
    """Begin to count what the processes do in the epoch."""


@dataclasses.dataclass(frozen=True)
class Order:
    """Give the processes an order: IDLE, TRAIN or VALIDATE."""

    kind: int


@dataclasses.dataclass(frozen=True)
class ShowProgress:
    """Report how far the epoch is."""

    epoch: int


@dataclasses.dataclass(frozen=True)
class SayStopping:
    """Tell the user that the run was interrupted and is stopping."""


@dataclasses.dataclass(frozen=True)
class SayCheckpoint:
    """Tell the user that a checkpoint was asked for and is being written."""


@dataclasses.dataclass(frozen=True)
class CloseRound:
    """Skip the batches of the epoch that no worker has leased; once all workers are `idle`, also leased ones."""

    idle: bool


@dataclasses.dataclass(frozen=True)
class Settle:
    """In a run of many machines, exchange weights until the parameter servers have every update made here."""


@dataclasses.dataclass(frozen=True)
class CloseEpoch:
    """Check the weights and count the epoch's images. Outcome: Closed."""

    epoch: int


@dataclasses.dataclass(frozen=True)
class OpenEpoch:
    """Let data servers begin with an epoch."""

    epoch: int


@dataclasses.dataclass(frozen=True)
class ReadCounters:
    """Read what processes counted in the epoch that is closed; data servers already count for the next one."""


@dataclasses.dataclass(frozen=True)
class OpenEvaluation:
    """Open the evaluation ledger for the chunks of the validation samples."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Add the epoch to the figures, report it, save its model if it is the best. Outcome: Recorded."""

    epoch: int
    following: int
    validated: bool


@dataclasses.dataclass(frozen=True)
class SavePart:
    """Take a checkpoint within an epoch, the last of the run if it is `final`. Outcome: Saved."""

    epoch: int
    final: bool


@dataclasses.dataclass(frozen=True)
class SaveWhole:
    """Take a checkpoint between two epochs, of which `following` is the second. Outcome: Saved."""

    following: int


@dataclasses.dataclass(frozen=True)
class AllowReturn:
    """Count that the run goes back once more; raises DivergenceError, which ends the run, after too many times."""

    reason: str


@dataclasses.dataclass(frozen=True)
class GoBack:
    """Restore the last good state, with half the learning rate, and open its epoch. Outcome: WentBack."""

    reason: str


Action = (
    BeginEpoch | Order | ShowProgress | SayStopping | SayCheckpoint | CloseRound | Settle | CloseEpoch | OpenEpoch
    | ReadCounters | OpenEvaluation | Record | SavePart | SaveWhole | AllowReturn | GoBack
)  # fmt: skip
Actions = tuple[Action, ...]


# The machine.


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the settings ask of a run: its `epochs`, and the validation accuracy `target` that ends it earlier.

    `checkpoint_seconds` lie between two checkpoints within an epoch; `validates` is whether there are validation
    samples.
    """

    epochs: int
    checkpoint_seconds: float
    validates: bool
    target: float | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run is. `epoch` is trained, or was trained last; `following` is the next one once `epoch` is closed.

    `saved` and `reported` are the times of the last checkpoint and progress report within the epoch, or of its
    beginning. `end` is set once the phase is ENDED.
    """

    rules: Rules
    phase: Phase = Phase.STARTING
    purpose: Purpose | None = None
    epoch: int = 0
    following: int = 0
    reached: bool = False  # whether the target accuracy is reached
    reason: str = ""  # why the run goes back
    saved: float = 0.0
    reported: float = 0.0
    end: End | None = None

    @property
    def goes_back(self) -> bool:
        """Whether the run has diverged and gives its weights up: a further divergence of them is ignored."""
        return self.purpose is Purpose.RETURN


Step = tuple[State, Actions]


class UnexpectedError(Exception):
    """The machine got an event that cannot come in its phase: a fault of the driver."""


def step(state: State, event: Event, now: float) -> Step:
    """Return the state after `event`, and the actions to do. `now` is in seconds of a clock that never goes back.

    Raises UnexpectedError for an event that cannot come in this phase.
    """
    phase = state.phase
    if isinstance(event, Diverged) and phase not in (Phase.STARTING, Phase.ENDED):
        return _diverged(state, event.reason)
    if isinstance(event, Looked):
        if phase is Phase.TRAINING:
            return _look_at_training(state, event, now)
        if phase is Phase.PAUSING:
            return (state, ()) if event.behind else _all_are_idle(state)
        if phase is Phase.VALIDATING:
            return _pause(state, Purpose.RECORD) if event.evaluated else (state, ())
    if isinstance(event, Began) and phase is Phase.STARTING:
        return _train(state, event.epoch, now)
    if isinstance(event, Closed) and phase is Phase.CLOSING:
        return _closed(state, event)
    if isinstance(event, Recorded) and phase is Phase.RECORDING:
        return _recorded(state, event, now)
    if isinstance(event, Saved) and phase is Phase.SAVING:
        return _saved(state, now)
    if isinstance(event, WentBack) and phase is Phase.RETURNING:
        return _train(state, event.epoch, now)
    raise UnexpectedError(f"{event} while {phase.value}")


def _train(state: State, epoch: int, now: float) -> Step:
    """Train `epoch`, which is open, unless all epochs are trained."""
    if epoch >= state.rules.epochs:
        return _end(state, End.DONE)
    after = State(state.rules, Phase.TRAINING, epoch=epoch, saved=now, reported=now)
    return after, (BeginEpoch(), Order(TRAIN))


def _look_at_training(state: State, seen: Looked, now: float) -> Step:
    if seen.over:
        after, orders = _pause(state, Purpose.CLOSE)
        return after, (CloseRound(idle=False), *orders)
    if seen.interrupted:
        after, orders = _pause(state, Purpose.STOP)
        return after, (SayStopping(), *orders)
    if seen.asked:
        after, orders = _pause(dataclasses.replace(state, saved=now), Purpose.SAVE)
        return after, (SayCheckpoint(), *orders)
    if seen.leads and now - state.saved >= state.rules.checkpoint_seconds:
        return _pause(dataclasses.replace(state, saved=now), Purpose.SAVE)
    if now - state.reported >= REPORT:
        return dataclasses.replace(state, reported=now), (ShowProgress(state.epoch),)
    return state, ()


def _pause(state: State, purpose: Purpose) -> Step:
    return dataclasses.replace(state, phase=Phase.PAUSING, purpose=purpose), (Order(IDLE),)


def _all_are_idle(state: State) -> Step:
    """Do that for which the workers were paused."""
    if state.purpose is Purpose.CLOSE:
        # Leased batches are skipped too: some workers may have arrived at a step at which the others never will.
        actions: Actions = (CloseRound(idle=True), Settle(), CloseEpoch(state.epoch))
        return dataclasses.replace(state, phase=Phase.CLOSING), actions
    if state.purpose is Purpose.RECORD:
        return _record(state, validated=True)
    if state.purpose is Purpose.RETURN:
        # Data servers must drop the batches that they make before GoBack changes the order of the samples.
        return dataclasses.replace(state, phase=Phase.RETURNING), (CloseRound(idle=True), GoBack(state.reason))
    save = SavePart(state.epoch, final=state.purpose is Purpose.STOP)
    return dataclasses.replace(state, phase=Phase.SAVING), (save,)


def _closed(state: State, event: Closed) -> Step:
    """Open the next epoch at once, so that data servers fill the rings for it while workers validate."""
    following = event.following
    after = dataclasses.replace(state, following=following)
    opened: Actions = (OpenEpoch(following),) if following < state.rules.epochs else ()
    if state.rules.validates and event.leads:
        actions = (*opened, ReadCounters(), OpenEvaluation(), Order(VALIDATE))
        return dataclasses.replace(after, phase=Phase.VALIDATING, purpose=None), actions
    after, actions = _record(after, validated=False)
    return after, (*opened, ReadCounters(), *actions)


def _record(state: State, validated: bool) -> Step:
    after = dataclasses.replace(state, phase=Phase.RECORDING, purpose=Purpose.RECORD)
    return after, (Record(state.epoch, state.following, validated),)


def _recorded(state: State, event: Recorded, now: float) -> Step:
    target = state.rules.target
    reached = target is not None and event.accuracy is not None and event.accuracy >= target
    after = dataclasses.replace(state, reached=reached)
    if event.leads:
        return dataclasses.replace(after, phase=Phase.SAVING), (SaveWhole(state.following),)
    return _go_on(after, now)


def _saved(state: State, now: float) -> Step:
    if state.purpose is Purpose.SAVE:
        return dataclasses.replace(state, phase=Phase.TRAINING, purpose=None), (Order(TRAIN),)
    if state.purpose is Purpose.STOP:
        return _end(state, End.INTERRUPTED)
    return _go_on(state, now)


def _go_on(state: State, now: float) -> Step:
    """Train the next epoch, unless the run is over. The first look of that epoch will show an interruption."""
    return _end(state, End.TARGET) if state.reached else _train(state, state.following, now)


def _diverged(state: State, reason: str) -> Step:
    if state.goes_back:
        return state, ()
    after, orders = _pause(dataclasses.replace(state, reason=reason), Purpose.RETURN)
    return after, (AllowReturn(reason), *orders)


def _end(state: State, end: End) -> Step:
    return dataclasses.replace(state, phase=Phase.ENDED, purpose=None, end=end), ()
