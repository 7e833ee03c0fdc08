"""The driver: what it looks at for the machine, in which order it does what it is told, and what it says at the end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from adam_mp.errors import DivergenceError
from adam_mp.memory.board import DATA, IDLE, OTHERS, TRAIN
from adam_mp.memory.ledger import FREE, TRAINED
from adam_mp.training.epoch import driver as drivers
from adam_mp.training.epoch.driver import Driver, _time_to_look
from adam_mp.training.epoch.guard import DivergedError
from adam_mp.training.epoch.machine import (
    AllowReturn,
    Began,
    Closed,
    CloseEpoch,
    CloseRound,
    Diverged,
    End,
    Looked,
    Order,
    Phase,
    Purpose,
    Rules,
    Settle,
    State,
    step,
)


class Recorder:
    """Notes every call, as a name with its arguments; what it returns, the test sets."""

    def __init__(self, log, **returned):
        self._log, self._returned = log, returned

    def __getattr__(self, name):
        def call(*arguments):
            self._log.append((name, *arguments))
            value = self._returned.get(name)
            return value(*arguments) if callable(value) else value

        return call


@pytest.fixture
def made(monkeypatch):
    """A driver all of whose parts note what is done to them, in one log."""
    log, states = [], np.array([TRAINED, FREE], np.uint8)
    ledger = Recorder(log, states=states)
    session = Recorder(log, behind=frozenset(), is_evaluated=True)
    session.memory = SimpleNamespace(ledger=ledger, board=SimpleNamespace(lack=DATA))
    session.store = SimpleNamespace(weights=np.zeros(3), read_updates=lambda: 7)
    leases = Recorder(log, over=False, lack=OTHERS, next_epoch=1, sums="sums", missed=())
    leases.leads = True
    account = Recorder(log)
    account.epoch, account.figures = Recorder(log), SimpleNamespace(averaged_epochs=0)
    account.epoch.here = 1.0
    settings = SimpleNamespace(
        epochs=1, checkpoint_seconds=60.0, target_accuracy=0.9, quorum=1.0, stall_seconds=1.0, batch_size=16
    )
    data = SimpleNamespace(validation=np.arange(4))
    plan = SimpleNamespace(settings=settings, data=data, batches=2, average=None, elsewhere=None)
    interruption, told = SimpleNamespace(requested=None, checkpoint_asked=False), []
    driver = Driver(
        plan, session, leases, account, Recorder(log), Recorder(log), Recorder(log), interruption, told.append,
        lambda guarded: log.append(("step", guarded)),
    )  # fmt: skip
    return SimpleNamespace(
        driver=driver, log=log, session=session, leases=leases, interruption=interruption, told=told, plan=plan
    )


RULES = Rules(1, 60.0, True)


def test_while_training_the_leases_are_asked_before_anything_else_is_seen_to(made):
    state = State(RULES, Phase.TRAINING)
    made.interruption.requested = "SIGTERM"
    assert made.driver._look(state) == Looked(interrupted=True, leads=True)
    assert [name for name, *_ in made.log] == ["states", "over", "lack", "step"]
    assert made.session.memory.board.lack == OTHERS
    made.log.clear()
    made.leases._returned["over"] = True
    assert made.driver._look(state) == Looked(over=True)
    assert [name for name, *_ in made.log] == ["states", "over"]  # at once: workers may have nothing left


def test_a_checkpoint_that_is_asked_for_is_said_and_taken_once(made):
    made.interruption.checkpoint_asked = True
    state = State(RULES, Phase.TRAINING)
    seen = made.driver._look(state)
    assert seen == Looked(asked=True, leads=True)
    state, actions = step(state, seen, 1.0)
    assert (state.phase, state.purpose) == (Phase.PAUSING, Purpose.SAVE)
    made.driver._do(actions)
    assert [notice.text for notice in made.told] == ["SIGUSR2: writing a checkpoint; the run goes on"]
    assert not made.interruption.checkpoint_asked


@pytest.mark.parametrize("purpose", [*Purpose])
def test_a_run_that_goes_back_is_not_guarded(made, purpose):
    assert made.driver._look(State(RULES, Phase.PAUSING, purpose)) == Looked(behind=frozenset())
    assert made.log == [("step", purpose is not Purpose.RETURN), ("behind",)]


def test_what_is_validated_is_looked_at(made):
    assert made.driver._look(State(RULES, Phase.VALIDATING)) == Looked(evaluated=True)


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.PAUSING, Phase.VALIDATING])
def test_a_look_may_see_that_the_run_diverged(made, phase):
    def diverge(guarded):
        raise DivergedError("the loss became NaN")

    made.driver._step_run = diverge
    assert made.driver._look(State(RULES, phase)) == Diverged("the loss became NaN")


def test_an_action_that_finds_the_run_diverged_is_the_last(made):
    def diverge(step):
        step()
        raise DivergedError("it did")

    made.leases._returned["settle"] = diverge
    outcome = made.driver._do((CloseRound(idle=True), Settle(), CloseEpoch(0), Order(TRAIN)))
    assert outcome == Diverged("it did")
    assert [entry[0] for entry in made.log] == ["close_round", "settle", "step"]


def test_weights_that_are_not_finite_close_no_epoch(made):
    assert made.driver._do((CloseEpoch(0),)) == Closed(1, leads=True)
    made.session.store.weights[1] = np.nan
    made.log.clear()
    outcome = made.driver._do((CloseEpoch(0),))
    assert outcome == Diverged("weights became NaN or infinite in epoch 1, by update 7")
    assert [entry[0] for entry in made.log] == ["end"]  # no image is counted


def test_too_many_ways_back_end_the_run_before_anything_is_ordered(made):
    def refuse(reason, kept):
        raise DivergenceError(f"{reason}; use a lower --lr")

    made.driver.guard._returned["go_back"] = refuse
    with pytest.raises(DivergenceError, match="it did; use a lower"):
        made.driver._do((AllowReturn("it did"), Order(IDLE)))
    assert not [entry for entry in made.log if entry[0] == "order"]


@pytest.mark.parametrize(
    ("end", "requested", "said"),
    [
        (End.DONE, None, None),
        (End.DONE, "SIGINT", "SIGINT"),  # in the validation of the last epoch
        (End.INTERRUPTED, "SIGTERM", "SIGTERM"),
        (End.TARGET, None, "target accuracy 0.9"),
        (End.TARGET, "SIGINT", "target accuracy 0.9"),
    ],
)
def test_what_ended_the_run(made, monkeypatch, end, requested, said):
    def ends(state, event, now):
        assert event == Began(0)
        return State(RULES, Phase.ENDED, end=end), ()

    monkeypatch.setattr(drivers, "step", ends)
    made.interruption.requested = requested
    assert made.driver.train(0) == said


def test_workers_are_left_alone_for_a_quarter_of_what_is_left_within_bounds():
    assert _time_to_look(10.0, 0.0) == _time_to_look(10.0, 1.0) == 0.0025
    assert _time_to_look(10.0, 0.5) == 0.05
    assert _time_to_look(1.0, 0.9) == pytest.approx(1 / 9 / 4)
