"""A replica that waits for parameter servers says so, unless they are started here."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest

import adam_mp
from adam_mp.errors import RunFolderError, TransportError
from adam_mp.process import folder_lock
from adam_mp.training import trainer
from adam_mp.training.replica import joining
from adam_mp.training.settings.events import Notice


@pytest.mark.parametrize(
    ("share", "launch", "told"),
    [
        ((0, 1), None, [Notice("waiting for 1 more")]),
        ((0, 1), SimpleNamespace(), []),
        ((1, 2), None, []),
    ],
)
def test_what_is_waited_for_is_a_notice(monkeypatch, share, launch, told):
    def join_cluster(plan, stop, say):
        say("waiting for 1 more")
        raise TransportError("enough")

    monkeypatch.setattr(joining, "join_cluster", join_cluster)
    events = []
    with pytest.raises(TransportError, match="enough"):
        trainer._run_replica(SimpleNamespace(share=share, resumed=None), None, None, events.append, launch)
    assert events == told


@pytest.mark.parametrize(
    ("resumed", "launch", "advised"), [(None, None, False), ({}, None, True), ({}, SimpleNamespace(), False)]
)
def test_going_on_alone_is_advised_where_there_is_a_run_to_go_on_with(monkeypatch, resumed, launch, advised):
    def join_cluster(plan, stop, say):
        raise TransportError("a:1 does not answer")

    monkeypatch.setattr(joining, "join_cluster", join_cluster)
    with pytest.raises(TransportError) as caught:
        trainer._run_replica(SimpleNamespace(share=(0, 1), resumed=resumed), None, None, None, launch)
    assert ("; to go on without that run, give join='none'" in str(caught.value)) == advised


def test_a_listener_that_fails_ends_no_run(capsys):
    heard = []

    def broken(event):
        raise ZeroDivisionError("no reason")

    tell = trainer._teller([broken, heard.append])
    tell(Notice("one"))
    tell(Notice("two"))
    assert heard == [Notice("one"), Notice("two")]
    assert capsys.readouterr().err == (
        "adam_mp: broken cannot report Notice: ZeroDivisionError: no reason; the run goes on\n"
    )


def test_a_listener_may_refuse_a_run():
    def damaged(event):
        raise RunFolderError("metrics.jsonl is damaged")

    with pytest.raises(RunFolderError, match="damaged"):
        trainer._teller([damaged])(Notice("one"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_trains_where_its_file_system_has_no_locks(tmp_path, monkeypatch, capfd, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    labels = np.arange(60) % 2
    images = labels[:, None] + np.zeros((60, 4), np.float32)
    layers = [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]
    result = adam_mp.train(layers, (images, labels), cores=1, epochs=1, quiet=True, run_dir=tmp_path / "run")
    assert result.images_trained == 57
    told = [line for line in capfd.readouterr().err.splitlines() if "locks" in line]
    assert len(told) == 1
    assert told[0].startswith(f"adam_mp: the file system of {tmp_path / 'run'} has no locks ({os.strerror(number)})")
