"""The machine of a run, in every order of events that deaths, an interruption, divergences and a quorum can make.

A small world stands for the processes, the ledger and the disk: two workers, two epochs. All states of machine and
world that can be reached are visited, whatever happens between two looks and whichever action finds that the run has
diverged. The world complains when something is done that it must not bear.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict

import pytest

from adam_mp.memory.board import IDLE, TRAIN, VALIDATE
from adam_mp.training.epoch import machine
from adam_mp.training.epoch.machine import (
    REPORT,
    Began,
    Closed,
    Diverged,
    End,
    Looked,
    Phase,
    Purpose,
    Recorded,
    Rules,
    Saved,
    State,
    UnexpectedError,
    WentBack,
    step,
)

EPOCHS = 2
EVERY = 100.0  # seconds between checkpoints
GUARDED = (machine.Settle, machine.CloseEpoch, machine.SavePart, machine.SaveWhole)  # may find that the run diverged


class GaveUpError(Exception):
    """The run ended because it diverged too often."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A checkpoint: the epoch to go on with, the epochs that are counted, and whether it is said to be the last."""

    epoch: int
    counted: tuple[int, ...]
    final: bool


@dataclasses.dataclass(frozen=True)
class World:
    """What the machine's driver stands on: `alive` processes, of which some are `behind` the last order."""

    leads: bool
    validates: bool
    target: bool
    ways_back: int
    deaths: int
    divergences: int
    jumps: int  # of the clock, far enough for a checkpoint
    alive: frozenset[int] = frozenset({0, 1})
    behind: frozenset[int] = frozenset()
    order: int = IDLE
    clock: float = 0.0
    interrupted: bool = False
    epoch: int = 0  # that the ledger has open
    round: str = "open"
    over: bool = False
    evaluated: bool = False
    counting: bool = False  # an account is open
    read: bool = False  # the counters of the closed epoch
    counted: tuple[int, ...] = ()
    kept: Kept = Kept(0, (), False)

    @property
    def idle(self) -> bool:
        """Whether nobody touches weights or leases."""
        return self.order == IDLE and not self.behind

    def changed(self, **changes):
        return dataclasses.replace(self, **changes)

    def elsewhere(self):
        """What may happen while the driver sleeps."""
        for number in self.behind:
            yield self.changed(behind=self.behind - {number})
        if self.deaths:
            for number in self.alive:  # its successor begins with nothing acknowledged
                yield self.changed(deaths=self.deaths - 1, behind=self.behind | {number})
                if len(self.alive) > 1:
                    left = self.alive - {number}
                    yield self.changed(deaths=self.deaths - 1, alive=left, behind=self.behind & left)
        if not self.interrupted:
            yield self.changed(interrupted=True)
        if self.jumps:
            yield self.changed(jumps=self.jumps - 1, clock=self.clock + EVERY)
        if self.round == "open" and not self.over and not self.idle:
            yield self.changed(over=True)
        if self.order == VALIDATE and self.behind != self.alive and not self.evaluated:
            yield self.changed(evaluated=True)

    def do(self, action):
        """Return pairs of the world after an action, and its outcome."""
        name = type(action).__name__
        if name == "Order":
            if action.kind != IDLE:
                assert self.idle, "workers are sent on before all had stopped"
            assert action.kind != TRAIN or (self.counting and self.round == "open")
            assert action.kind != VALIDATE or self.round != "closed"
            return [(self.changed(order=action.kind, behind=self.alive), None)]
        if name == "BeginEpoch":
            assert not self.counting
            return [(self.changed(counting=True), None)]
        if name == "CloseRound":
            assert not action.idle or self.idle, "leases are taken from workers that train"
            return [(self.changed(round="given up" if action.idle else "closed", over=False), None)]
        if name == "CloseEpoch":
            assert self.idle
            assert self.round == "given up"
            assert action.epoch == self.epoch
            return [(self, Closed(action.epoch + 1, self.leads))]
        if name == "OpenEpoch":
            assert self.idle
            assert action.epoch == self.epoch + 1
            return [(self.changed(epoch=action.epoch, round="open", over=False), None)]
        if name == "ReadCounters":
            return [(self.changed(read=True), None)]
        if name == "OpenEvaluation":
            return [(self.changed(evaluated=False), None)]
        if name == "Record":
            return self.record(action)
        if name in ("SavePart", "SaveWhole"):
            return self.save(action)
        if name == "AllowReturn":
            if not self.ways_back:
                raise GaveUpError
            return [(self.changed(ways_back=self.ways_back - 1, counting=False, read=False), None)]
        if name == "GoBack":
            assert self.idle, "weights are restored under workers that train"
            assert self.round == "given up"
            back = self.changed(epoch=self.kept.epoch, counted=self.kept.counted, round="open", over=False)
            return [(back, WentBack(self.kept.epoch))]
        if name == "SayStopping":
            assert self.interrupted
        assert name in ("SayStopping", "ShowProgress", "Settle")
        return [(self, None)]

    def record(self, action):
        assert self.idle
        assert self.read
        assert self.counting
        assert action.epoch not in self.counted, "an epoch is counted twice"
        assert action.following == action.epoch + 1
        assert action.validated == (self.validates and self.leads)
        assert not action.validated or self.evaluated
        after = self.changed(counted=(*self.counted, action.epoch), counting=False, read=False)
        accuracies = (0.5, 0.95) if self.target else (None,)
        return [(after, Recorded(accuracy, self.leads)) for accuracy in accuracies]

    def save(self, action):
        assert self.idle, "a checkpoint is taken of a run that goes on"
        whole = isinstance(action, machine.SaveWhole)
        epoch = action.following if whole else action.epoch
        assert self.counted == tuple(range(epoch)), "a checkpoint counts what it does not have"
        assert self.counting != whole
        assert not self.kept.final, "the run had stopped"
        return [(self.changed(kept=Kept(epoch, self.counted, not whole and action.final)), Saved())]


def begun(leads=True, validates=True, target=False, ways_back=1, deaths=1, divergences=2, jumps=1):
    world = World(leads, validates, target, ways_back, deaths, divergences, jumps)
    rules = Rules(EPOCHS, EVERY, validates, 0.9 if target else None)
    return follow(State(rules), world, Began(0))


def follow(state, world, event):
    """Return all states and worlds in which the machine looks again, or ends, after an event."""
    before = state
    state, actions = step(state, event, world.clock)
    check(before, event, state)
    worlds, reached = [(world, None)], []
    for place, action in enumerate(actions):
        following = []
        for each, outcome in worlds:
            assert outcome is None, "only the last action has an outcome"
            if isinstance(action, GUARDED) and each.divergences:
                diverged = each.changed(divergences=each.divergences - 1)
                reached += attempt(state, diverged, Diverged("it did"))
            try:
                following += each.do(action)
            except GaveUpError:
                reached.append((None, each))
        worlds = following
        assert worlds or place == len(actions) - 1 or reached
    for each, outcome in worlds:
        reached += [(state, each)] if outcome is None else follow(state, each, outcome)
    return reached


def attempt(state, world, event):
    try:
        return follow(state, world, event)
    except GaveUpError:
        return [(None, world)]


def check(before, event, after):
    if isinstance(event, Diverged):
        assert after.purpose is Purpose.RETURN
    if before.phase is Phase.PAUSING and isinstance(event, Looked) and event.behind:
        assert after == before


def successors(state, world):
    """Return where a look may lead, and where what happens elsewhere does."""
    if state is None or state.phase is Phase.ENDED:
        return []
    seen = Looked(world.over, world.interrupted, world.leads, world.behind, world.evaluated)
    reached = follow(state, world, seen)
    if world.divergences and not state.goes_back:
        reached += attempt(state, world.changed(divergences=world.divergences - 1), Diverged("it did"))
    return reached + [(state, each) for each in world.elsewhere()]


def explore(starts):
    """Return all that can be reached: node -> its successors."""
    graph, ahead = {}, list(starts)
    while ahead:
        node = ahead.pop()
        if node not in graph:
            graph[node] = successors(*node)
            ahead += graph[node]
    return graph


def leading_to(graph, ends, allowed):
    """Return the nodes from which one of `ends` is reached by allowed steps."""
    back = defaultdict(list)
    for node, following in graph.items():
        for each in following:
            if allowed(node, each):
                back[each].append(node)
    reached, ahead = set(), list(ends)
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += back[node]
    return reached


def no_more_trouble(before, after):
    (_, old), (_, new) = before, after
    return (old.deaths, old.divergences, old.interrupted) == (new.deaths, new.divergences, new.interrupted)


KINDS = [
    {"deaths": 2, "divergences": 0},
    {"deaths": 1, "divergences": 2},
    {"validates": False},
    {"target": True, "deaths": 0},
    {"leads": False, "ways_back": 0},
    {"ways_back": 2, "divergences": 3, "deaths": 0},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_whatever_happens_the_run_ends_as_it_should(kind):
    graph = explore(begun(**kind))
    ends = [node for node in graph if node[0] is None or node[0].phase is Phase.ENDED]
    seen = set()
    for state, world in ends:
        if state is None:  # it diverged more often than it may
            assert world.ways_back == 0
            seen.add("gave up")
            continue
        seen.add(state.end)
        done = len(world.counted)
        assert world.counted == tuple(range(done))
        assert world.order == IDLE
        if state.end is End.INTERRUPTED:
            assert world.interrupted
            assert world.kept == Kept(state.epoch, world.counted, True)
        else:
            assert done == EPOCHS or state.end is End.TARGET
            assert world.kept == Kept(done, world.counted, False) or not world.leads
    assert seen >= {End.DONE, End.INTERRUPTED}
    assert ("gave up" in seen) == (kind.get("divergences", 2) > kind.get("ways_back", 1))
    assert (End.TARGET in seen) == kind.get("target", False)
    assert set(graph) == leading_to(graph, ends, no_more_trouble), "somewhere it waits for what does not come"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_interruption_ends_a_run_whose_epoch_would_never_be_over(kind):
    graph = explore(begun(**kind))
    ends = [node for node in graph if node[0] is None or node[0].phase is Phase.ENDED]

    def no_batch_is_trained(before, after):
        return no_more_trouble(before, after) and (before[1].over or not after[1].over)

    stopping = {node for node in graph if node[1].interrupted}
    assert stopping
    assert stopping <= leading_to(graph, ends, no_batch_is_trained)


def trained(rules=None, now=0.0):
    """The state of a run whose first epoch is being trained."""
    return step(State(rules or Rules(EPOCHS, EVERY, True)), Began(0), now)[0]


def kinds(actions):
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize("deeds", list(itertools.permutations(["worker 0", "worker 1", "death", "successor"])), ids=str)
def test_a_successor_has_to_be_idle_too(deeds):
    """Worker 0 dies while the run pauses, before or after it has acknowledged; it has a successor at once."""
    state, _ = step(trained(), Looked(over=True), 1.0)
    behind, dead = {0, 1}, False
    for deed in deeds:
        if deed == "worker 1":
            behind.discard(1)
        elif deed == "death":
            behind.add(0)
            dead = True
        elif (deed == "successor") == dead:
            behind.discard(0)
        state, actions = step(state, Looked(behind=frozenset(behind)), 1.0)
        assert bool(actions) == (not behind)
        if actions:
            assert kinds(actions) == ["CloseRound", "Settle", "CloseEpoch"]
            return
    assert behind == {0}  # the successor came before the death here: there was none


def test_checkpoints_are_taken_at_intervals_by_who_leads():
    state = trained(now=50.0)
    for leads, now, paused in ((True, 149.9, False), (False, 151.0, False), (True, 151.0, True)):
        after, actions = step(dataclasses.replace(state, reported=now), Looked(leads=leads), now)
        assert (after.phase is Phase.PAUSING) == paused
        assert kinds(actions) == (["Order"] if paused else [])
    saving, actions = step(after, Looked(), 152.0)
    assert actions == (machine.SavePart(0, final=False),)
    resumed, actions = step(saving, Saved(), 153.0)
    assert actions == (machine.Order(TRAIN),)
    assert (resumed.phase, resumed.saved) == (Phase.TRAINING, 151.0)


def test_when_an_epoch_is_over_its_batches_are_skipped_before_workers_are_told_to_stop():
    """They would go on with what they have in their rings until they see the order."""
    _, actions = step(trained(), Looked(over=True, interrupted=True), 1.0)
    assert actions == (machine.CloseRound(idle=False), machine.Order(IDLE))


def test_a_run_that_goes_back_does_not_do_so_twice_at_once():
    state, _ = step(trained(), Diverged("it did"), 1.0)
    for event in (Diverged("again"), Looked(behind=frozenset({0})), Diverged("again")):
        assert step(state, event, 1.0) == (state, ())
    returning, actions = step(state, Looked(), 1.0)
    assert actions == (machine.CloseRound(idle=True), machine.GoBack("it did"))
    assert step(returning, Diverged("again"), 1.0) == (returning, ())


def test_progress_is_shown_at_intervals():
    state, shown = trained(now=0.0), [0.0]
    for look in range(1, 101):
        now = look * REPORT / 8
        state, actions = step(state, Looked(), now)
        if actions:
            assert actions == (machine.ShowProgress(0),)
            shown.append(now)
    assert len(shown) > 10
    assert all(REPORT <= later - earlier < 1.3 * REPORT for earlier, later in itertools.pairwise(shown))


def test_the_next_epoch_is_opened_before_the_last_is_validated():
    state, _ = step(trained(), Looked(over=True), 1.0)
    state, _ = step(state, Looked(), 1.0)
    after, actions = step(state, Closed(1, leads=True), 1.0)
    assert kinds(actions) == ["OpenEpoch", "ReadCounters", "OpenEvaluation", "Order"]
    assert after.phase is Phase.VALIDATING
    _, actions = step(state, Closed(1, leads=False), 1.0)
    assert kinds(actions) == ["OpenEpoch", "ReadCounters", "Record"]
    _, actions = step(state, Closed(EPOCHS, leads=True), 1.0)
    assert kinds(actions) == ["ReadCounters", "OpenEvaluation", "Order"]


def test_epochs_that_others_trained_meanwhile_are_left_out():
    rules = Rules(9, EVERY, validates=False)
    state, _ = step(trained(rules), Looked(over=True), 1.0)
    state, _ = step(state, Looked(), 1.0)
    state, actions = step(state, Closed(5, leads=False), 1.0)
    assert actions[0] == machine.OpenEpoch(5)
    state, actions = step(state, Recorded(None, leads=False), 1.0)
    assert (state.phase, state.epoch) == (Phase.TRAINING, 5)


def test_a_run_that_has_nothing_left_to_train_ends():
    state, actions = step(State(Rules(2, EVERY, True)), Began(2), 0.0)
    assert (state.end, actions) == (End.DONE, ())


EVENTS = [
    Began(0), Looked(), Looked(over=True, interrupted=True, evaluated=True), Closed(1, True), Recorded(None, True),
    Saved(), WentBack(0), Diverged("it did"),
]  # fmt: skip
EXPECTED = {
    Phase.STARTING: {Began},
    Phase.TRAINING: {Looked, Diverged},
    Phase.PAUSING: {Looked, Diverged},
    Phase.CLOSING: {Closed, Diverged},
    Phase.VALIDATING: {Looked, Diverged},
    Phase.RECORDING: {Recorded, Diverged},
    Phase.SAVING: {Saved, Diverged},
    Phase.RETURNING: {WentBack, Diverged},
    Phase.ENDED: set(),
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_an_event_that_a_phase_does_not_have_is_an_error(phase, event):
    state = State(Rules(EPOCHS, EVERY, True), phase, Purpose.SAVE)
    if type(event) in EXPECTED[phase]:
        step(state, event, 0.0)
    else:
        with pytest.raises(UnexpectedError, match=phase.value):
            step(state, event, 0.0)


def test_a_checkpoint_that_is_asked_for_comes_at_once_and_the_run_goes_on():
    state, actions = step(trained(), Looked(asked=True), 1.0)  # whoever leads, long before one is due
    assert (state.phase, state.purpose) == (Phase.PAUSING, Purpose.SAVE)
    assert isinstance(actions[0], machine.SayCheckpoint)
    state, _ = step(state, Looked(), 2.0)
    state, actions = step(state, Saved(), 3.0)
    assert state.phase is Phase.TRAINING
    assert machine.Order(TRAIN) in actions
