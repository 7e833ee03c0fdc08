from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, speaking_flags
from adam_mp.network.description import load_network
from adam_mp.report import curves, metrics, progress
from adam_mp.report.cluster_text import cluster_text
from adam_mp.report.curves import CurvesFile, draw_curves
from adam_mp.report.failures import FailureLog
from adam_mp.report.metrics import MetricsFile, read_metrics
from adam_mp.report.progress import ProgressDisplay, notices_only
from adam_mp.report.text import count, duration, network_table, percent, summary_text, table
from adam_mp.training.folder.figures import WorkerFigures
from adam_mp.training.settings.events import (
    DataSurveyed,
    DataUnderstood,
    EpochEnded,
    EpochProgress,
    KernelCompiled,
    Notice,
    RunEnded,
    RunPlanned,
)
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.training.trainer import TrainResult


def planned(folder=Path("run"), first_epoch=1):
    return RunPlanned(
        TrainSettings(epochs=3), load_network("mnist", (28, 28, 1), 10), "mnist", "uint8", 57000, 3000, 10000,
        "rotate=10", 2, 4, 2, 1, 10**7, 10**8, 10**6, KernelChoices(4, {"conv2": "scattered"}), folder, first_epoch,
    )  # fmt: skip


def ended(epoch, accuracy=0.98):
    return EpochEnded(
        epoch, 2.0, 57000, 0, 3, 40, 60, 0.1, 0.05, accuracy, 0.01, 28500.0, 7e10, 0.01, 0.9, 100 * epoch, 0.2
    )


RESULT = TrainResult(
    0.99, 0.98, 3, 3, 7.0, 28500.0, 7e10, 171000, 0, 9, 3, 40, 60, 500.0, 9000.0, "training",
    0.01, 0.0, 0.2, 0.0, 0.9, {"0": 250, "1": 47, "16-31": 3}, 300, 2, 1,
    (WorkerFigures(0, 171000, 1.0, 24428.6, 0.3, 1.5, 2),), None, "run", False, False, None,
)  # fmt: skip
EVENTS = [
    KernelCompiled(0, 2), KernelCompiled(2, 2), DataSurveyed(1, 5), DataSurveyed(5, 5), planned(),
    EpochProgress(1, 3, 100, 57000, 0.1, 1000.0, 2.5e9, 2.3, 0.02, 56.9), Notice("worker 0 died; started again"),
    ended(1), EpochProgress(2, 3, 100, 57000, 0.1, 1000.0, 2.5e9, 2.3, 0.02, 56.9), ended(2), RunEnded(RESULT),
]  # fmt: skip


def understood(classes=3):
    counts = {"train": (40,) * classes, "validation": (2,) * classes, "test": (0,) * classes}
    return DataUnderstood(
        "pets", "class folders below Train/", {"train": 120, "validation": 6, "test": 0}, {"train": "Train/"}, True,
        tuple(f"c{number}" for number in range(classes)), counts, "pictures of 32x32, colour",
        ("2: a link out of the data folder",), 2, ("not used: extra/",),
    )  # fmt: skip


@pytest.mark.parametrize("quiet", [False, True])
def test_what_was_understood_of_the_data_is_shown(quiet, capsys):
    out = io.StringIO()
    display = notices_only if quiet else ProgressDisplay(out, io.StringIO())
    display(understood(14))
    assert capsys.readouterr().err == "adam_mp: not used: extra/\n"
    if not quiet:
        assert out.getvalue().splitlines() == [
            "understood pets: class folders below Train/; pictures of 32x32, colour",
            "parts      120 images to train (Train/), 6 images to validate (held out of these), 0 images to test",
            f"classes    14: {', '.join(f'c{number} 40' for number in range(12))} and 2 more to train",
            "left out   2 files: 2: a link out of the data folder",
        ]


@pytest.mark.parametrize(
    ("flags", "cache", "limit"), [(True, "--cache 0", "--pixel-limit"), (False, "cache=0", "pixel_limit")]
)
def test_what_was_understood_names_settings_as_its_reader_knows_them(flags, cache, limit, capsys):
    out = io.StringIO()
    data = dataclasses.replace(understood(2), layout="items (--cache 0 asks anew)", notes=("see --pixel-limit",))
    with speaking_flags(flags):
        ProgressDisplay(out, io.StringIO())(data)
        notices_only(data)
    assert f"({cache} asks anew)" in out.getvalue()
    assert capsys.readouterr().err == f"adam_mp: see {limit}\n" * 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("bars", [io.StringIO, Terminal])
def test_a_run_is_shown(bars, capsys):
    out, err = io.StringIO(), bars()
    display = ProgressDisplay(out, err)
    for event in EVENTS:
        display(event)
    assert "2.49 M connections" in out.getvalue()
    assert "2 workers and 1 data server on 2 of 4" in out.getvalue()
    assert "test 99.00%" in out.getvalue()
    assert "epoch 1/3" in err.getvalue()
    assert "validation 98.00%" in err.getvalue()
    assert "1,000 images/s" in err.getvalue() or bars is io.StringIO
    assert "28,500 images/s" in err.getvalue()
    assert "waited 1.00%" in err.getvalue()
    assert "9 failed (3 bad files, see bad_samples.jsonl)" in out.getvalue()
    assert "staleness 0.90 on average, median 0, 1 or less in 99 of 100" in out.getvalue()
    assert "171,000  100.00%    24,429" in out.getvalue()
    assert "60.00% found in the cache, 500 images/s decoded, 9,000 images/s augmented" in out.getvalue()
    assert capsys.readouterr().err == "adam_mp: worker 0 died; started again\n"
    if bars is Terminal:
        assert "100/57000" in err.getvalue()
        assert "2.5 G connections/s" in err.getvalue()
        assert "compiling kernels" in err.getvalue()
        assert "looking at the images" in err.getvalue()


@pytest.mark.parametrize(("seconds", "left"), [(None, ""), (56.9, ", 56.9 s left")])
def test_the_time_left_is_told_where_it_is_known(monkeypatch, seconds, left):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", -1.0)
    bars = io.StringIO()
    ProgressDisplay(io.StringIO(), bars)(EpochProgress(1, 3, 100, 57000, 0.1, 1000.0, 0.0, 2.3, 0.02, seconds))
    assert bars.getvalue().endswith(f"waited 2.00%{left}\n")


def test_quiet_shows_problems_only(capsys):
    for event in EVENTS:
        notices_only(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_numbers_are_said_shortly():
    assert [count(number) for number in (0.5, 12, 1234, 2.49e6, 1.1e10)] == ["0.5", "12", "1.23 k", "2.49 M", "11 G"]
    assert [duration(s) for s in (4.24, 99, 185, 7620)] == ["4.2 s", "99.0 s", "3 min 05 s", "2 h 07 min"]
    assert [percent(f) for f in (None, 0.5, 0.99126)] == ["none", "50.00%", "99.13%"]
    assert table([("a", "b", "1"), ("long", "", "22")]) == "  a     b   1\n  long     22"
    assert "345,600" in network_table(load_network("mnist", (28, 28, 1), 10))


def test_metrics_are_kept_and_a_resumed_run_goes_on(tmp_path):
    first = MetricsFile()
    for event in (planned(tmp_path), ended(1), ended(2)):
        first(event)
    second = MetricsFile()
    for event in (planned(tmp_path, first_epoch=2), ended(2, 0.5)):
        second(event)
    rows = read_metrics(tmp_path)
    assert [(row["epoch"], row["validation_accuracy"]) for row in rows] == [(1, 0.98), (2, 0.5)]
    documented = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text()
    assert all(f"`{key}`" in documented for key in {*rows[0], *RESULT.as_dict()})


@pytest.fixture
def refusing(monkeypatch):
    """Whether the disk refuses metrics: a list that is empty when it does not."""
    refuses = [True]

    def write(path, content):
        if refuses:
            raise OSError(28, "No space left on device")
        write_file(path, content)

    monkeypatch.setattr(metrics, "write_file", write)
    return refuses


def epochs(folder):
    return [row["epoch"] for row in read_metrics(folder)]


def test_a_resumed_run_on_a_full_disk_has_each_epoch_once(tmp_path, refusing, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(ended(epoch).as_dict()) + "\n" for epoch in (1, 2, 3)))
    listener = MetricsFile()
    listener(planned(tmp_path, first_epoch=2))
    listener(ended(2))
    assert epochs(tmp_path) == [1, 2, 3]
    assert capsys.readouterr().err.count(f"cannot write {path}: No space left on device; free some") == 1
    refusing.clear()
    listener(ended(3))
    assert epochs(tmp_path) == [1, 2, 3]
    refusing.append(True)
    listener(ended(4))
    assert capsys.readouterr().err.count("cannot write") == 1


@pytest.mark.parametrize("event", [Notice("x"), RunEnded(RESULT), EVENTS[5]])
def test_a_refused_line_is_written_as_soon_as_the_disk_takes_it(tmp_path, refusing, event):
    listener = MetricsFile()
    listener(planned(tmp_path))
    listener(ended(1))
    assert epochs(tmp_path) == []
    refusing.clear()
    listener(event)
    assert epochs(tmp_path) == [1]
    (tmp_path / "metrics.jsonl").unlink()
    listener(event)
    assert epochs(tmp_path) == []  # what was written is not written again


def test_damage_is_told(tmp_path):
    assert read_metrics(tmp_path) == []
    path = tmp_path / "metrics.jsonl"
    row = ended(1).as_dict()
    for damage in (
        '{"epo',
        "nonsense",
        "[]",
        "3",
        '{"epoch": 1}',
        json.dumps({**row, "epoch": "x"}),
        json.dumps({**row, "a": 1}),
    ):
        path.write_text(f"{damage}\n{json.dumps(row)}\n")
        with pytest.raises(RunFolderError, match="line 1"):
            read_metrics(tmp_path)


@pytest.mark.parametrize("accuracy", [0.9, None])
def test_curves_are_a_picture(tmp_path, accuracy):
    draw_curves(tmp_path, 0.99)
    assert not (tmp_path / "curves.png").exists()
    rows = [ended(epoch, accuracy).as_dict() for epoch in (1, 2, 3)]
    if accuracy is None:
        rows = [{**row, "validation_loss": None} for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(tmp_path, 0.99)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000


def test_last_words_are_kept(tmp_path):
    log = FailureLog()
    for event in (planned(tmp_path), Notice("nothing more"), Notice("worker 0 died", "Traceback ...")):
        log(event)
    assert (tmp_path / "failures.log").read_text() == "worker 0 died\nTraceback ...\n"


def test_last_words_with_odd_names_are_kept(tmp_path):
    log = FailureLog()
    log(planned(tmp_path))
    log(Notice("worker 0 died", "at bytes\udcff.png"))
    assert "bytes\\udcff.png" in (tmp_path / "failures.log").read_text()


def test_odd_names_break_no_line(capsys):
    out = io.StringIO()
    odd = dataclasses.replace(understood(2), name="my\ndata", class_names=("a\nb", "\x1b[31mc\udcff"))
    ProgressDisplay(out, io.StringIO())(dataclasses.replace(odd, notes=("not used: x\ny/",)))
    assert out.getvalue().count("\n") == 4
    assert "understood my\\ndata: " in out.getvalue()
    assert "2: a\\nb 40, \\x1b[31mc\\xff 40 to train" in out.getvalue()
    assert capsys.readouterr().err == "adam_mp: not used: x\\ny/\n"


@pytest.mark.parametrize("display", [notices_only, ProgressDisplay(None, None)])
def test_a_notice_is_a_line_and_what_is_to_stand_below_it(display, capsys):
    display(Notice("no image x\ny.jpg", "kept for later", "stack 1\nstack 2"))
    assert capsys.readouterr().err == "adam_mp: no image x\\ny.jpg\nstack 1\nstack 2\n"


def test_a_run_is_over_though_its_curves_cannot_be_drawn(tmp_path, monkeypatch, capsys):
    def fail(folder, accuracy):
        raise ImportError("libpng is missing")

    monkeypatch.setattr(curves, "draw_curves", fail)
    CurvesFile()(RunEnded(RESULT))
    assert capsys.readouterr().err == "adam_mp: cannot draw curves.png: ImportError: libpng is missing\n"


def test_connections_that_failed_or_were_lost_are_shown_where_there_are_any():
    server = {
        "name": "params 10.0.0.1:7700",
        "role": "params",
        "seconds": 9.0,
        "silent_seconds": 0.1,
        "silent": False,
        "shards": 2,
    }
    state = {"run": "1", "phase": "waiting", "images": None, "members": [server], "missing": []}
    assert "connections" not in cluster_text({**state, "members": [{**server, "connections_lost": 0}]})
    shown = cluster_text({**state, "members": [{**server, "connections_lost": 3, "connections_failed": 1200}]})
    assert "2 shards, 0.0 MB, 0 updates/s, 1,200 connections failed, 3 connections lost" in shown
    shown = cluster_text({**state, "members": [{**server, "shards": 1, "connections_lost": 1}]})
    assert "1 shard, 0.0 MB, 0 updates/s, 1 connection lost" in shown


def test_what_members_say_of_themselves_cannot_do_anything_to_a_terminal():
    said = "\x1b[2J\x9b1A\r\n\u202eno" + 5000 * "!"
    member = {
        "name": said,
        "role": said,
        "seconds": 3.0,
        "silent_seconds": 0.1,
        "silent": False,
        "leader": True,
        "queue": said,
    }
    state = {"run": said, "phase": said, "images": 0, "members": [member], "missing": []}
    text = cluster_text(state)
    lines = text.splitlines()
    assert len(lines) == 3
    assert all(line.isascii() and line.isprintable() and len(line) < 1000 for line in lines)
    assert text.count("no!!") >= 3


def test_the_summary_tells_waits_apart_and_whose_figures_they_are():
    alone = summary_text(RESULT)
    assert "workers waited 1.00% for data, 20.00% for the exchange of their time" in alone
    assert "by all machines" not in alone
    many = dataclasses.replace(RESULT, of_many=True, staleness={}, workers=2, bottleneck="exchange")
    text = summary_text(many)
    assert "28,500 images/s, 70 G connections/s by all machines, 24,429 images/s here" in text
    assert "171,000 trained by all machines (171,000 here)" in text
    assert "updates    300, none of them made here" in text
    assert "the bottleneck was waiting for the exchange" in text
    assert "staleness among the workers here 0.90" in summary_text(dataclasses.replace(RESULT, of_many=True))
    elsewhere = summary_text(dataclasses.replace(RESULT, data_from_elsewhere=True))
    assert "made by the data servers of data_from" in elsewhere
    assert "augmented" not in elsewhere
