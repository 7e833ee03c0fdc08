from __future__ import annotations

import json

import pytest

from adam_mp.cli.main import main
from adam_mp.network.description import load_network
from adam_mp.report.speed import SpeedTable, speed_text, worker_counts
from adam_mp.training.benchmark import PHASES, Speed, training_flops

pytestmark = pytest.mark.usefixtures("forks")


@pytest.mark.timeout(300)  # nearly a minute where nothing else runs
def test_speed_is_measured_for_each_number_of_workers(capsys, tmp_path):
    picture = tmp_path / "speed.png"
    code = main(["bench", "--workers", "1,2", "--seconds", "0.2", "--repeats", "2", "--json", "--png", str(picture)])
    table = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [row["workers"] for row in table["workers"]] == [1, 2]
    assert len(table["measurements"]) == 4
    for speed in table["measurements"]:
        assert speed["images"] > 0
        assert sum(speed["phases"].values()) == pytest.approx(1, abs=0.05)
        assert speed["phases"]["backward"] > speed["phases"]["update"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers is '0'; expected numbers from 1"),
        (["--workers", "two"], "--workers is 'two'; expected numbers from 1"),
        (["--repeats", "0"], "--repeats and --seconds must be above 0"),
        (["--workers", "4", "--batch-size", "20000"], "an epoch has 3 batches, too few to measure 4 workers"),
        (["--epochs", "3"], "unknown flag --epochs"),
    ],
)
def test_what_cannot_be_measured(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_average_of_several_epochs_in_a_settings_file_has_no_part_in_the_one_that_is_measured(capsys, tmp_path):
    (tmp_path / "run.toml").write_text('average = "last:5"\nepochs = 20\n')
    few = ["--workers", "4", "--batch-size", "20000"]
    assert main(["bench", *few, "--config", str(tmp_path / "run.toml")]) == 2
    assert "an epoch has 3 batches, too few to measure 4 workers" in capsys.readouterr().err


def test_a_rate_at_which_nothing_can_be_measured(capsys):
    assert main(["bench", "--workers", "1", "--seconds", "5", "--repeats", "1", "--lr", "1e6 * 1e30"]) == 3
    said = capsys.readouterr().err.split("\r")[-1]
    assert said.startswith("adam_mp: error: the loss became NaN or infinite in epoch 1")
    assert said.endswith("use a lower --lr\n")
    assert said.count("\n") == 1


def test_the_table_says_what_was_measured():
    phases = dict.fromkeys(PHASES, 0.2)
    speeds = [
        Speed(workers, 1, 1000, 1.0, rate, 2e9, 50.0, phases, 0.5, 1 << 20)
        for workers, rate in ((1, 100.0), (1, 110.0), (1, 300.0), (2, 200.0), (2, 220.0), (2, 90.0))
    ]
    table = SpeedTable("lenet", 64, 100.0, tuple(speeds))
    assert (table.rate(1), table.rate(2)) == (110.0, 200.0)
    assert table.speed_up(2) == pytest.approx(200 / 110)
    text = speed_text(table)
    assert "1.82x" in text
    assert "90.9%" in text  # efficiency
    assert "25%" in text  # 50 GFLOP/s by two workers, of twice 100


def test_numbers_of_workers_double_up_to_the_cores():
    assert [list(worker_counts(cores)) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_operations_of_a_step_leave_out_the_error_of_the_images():
    network = load_network("lenet", (28, 28, 1), 10)
    first = 24 * 24 * 25 * 20
    assert training_flops(network) == 6 * network.connections - 2 * first
