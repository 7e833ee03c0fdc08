"""What is proposed for unknown names, and how messages name what was given: tables of words and of odd objects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adam_mp
from adam_mp import AdamError, Conv, Dense, Flatten, Softmax, TrainSettings
from adam_mp.cli.main import COMMANDS, main
from adam_mp.cli.options import Parser, add_settings, flag_of
from adam_mp.errors import SettingsError, shown, speaking_flags, spoken
from adam_mp.proposals import _OF_OTHERS, _SETTINGS, near, nearest
from adam_mp.proposals import COMMANDS as COMMANDS_OF_OTHERS
from adam_mp.training.settings.settings import FIELDS, make_settings
from adam_mp.training.settings.settings_file import read_settings_file

pytestmark = pytest.mark.usefixtures("forks")

# A word of other tools -> the settings of that meaning, or words of the sentence that says there is none.
WORDS = {
    "batch": ("batch_size",), "workers": ("cores", "data_servers"), "num_workers": ("cores", "data_servers"),
    "threads": ("cores",), "learning_rate": ("lr",), "learning-rate": ("lr",), "weight-decay-rate": ("weight_decay",),
    "max_epochs": ("epochs",), "num_epochs": ("epochs",), "output": ("run_dir",), "output_dir": ("run_dir",),
    "dataset": ("data",), "arch": ("model",), "val_split": ("validation",), "img_size": ("image_size",),
    "checkpoint": ("resume",), "random_state": ("seed",), "eps": ("epsilon",), "optim": ("optimizer",),
    "patience": "no early stopping", "early_stopping": "no early stopping", "early-stop": "no early stopping",
    "device": "trains on the cores of CPUs", "gpu": "trains on the cores of CPUs", "lr_scheduler": "formula",
    "pretrained": "cannot start from saved weights", "class_weight": "all classes weigh the same", "amp": "float32",
    "ema": ("average",), "swa": ("average",), "tta": ("views",), "grad_accum": "no such setting",
}  # fmt: skip
NONSENSE = ["foo", "zzz", "hyperdrive", "colour", "elastic-net", "x", "teleport_ratio", "n_heads", "attention"]


def refused(make):
    with pytest.raises(AdamError) as error:
        make()
    return str(error.value)


def flag_message(flag):
    parser = Parser(prog="adam-mp train")
    add_settings(parser)
    with speaking_flags():
        return refused(lambda: parser.parse_args([flag, "3"]))


def meant(message):
    return tuple(re.findall(r"'([^']*)'", message.partition("did you mean")[2]))


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_other_tools_is_told_what_it_means_here(word, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(f"{word} = 3\n")
    library = refused(lambda: make_settings({word: 3}))
    toml, command = refused(lambda: read_settings_file(file)), flag_message(flag_of(word))
    wanted = WORDS[word]
    if isinstance(wanted, tuple):
        assert meant(library) == meant(toml) == wanted
        assert meant(command) == tuple(map(flag_of, wanted))
    else:
        assert all(wanted in message and "did you mean" not in message for message in (library, toml, command))
        assert "--" not in library


@pytest.mark.parametrize("word", NONSENSE)
def test_for_anything_else_nothing_is_proposed(word):
    assert refused(lambda: make_settings({word: 3})) == f"unknown setting '{word}'"
    assert flag_message(flag_of(word)) == f"unknown flag {flag_of(word)}; see adam-mp train --help"


@pytest.mark.parametrize("name", [name for name in FIELDS if len(name) > 4])
def test_a_letter_wrong_is_a_misspelling(name):
    for wrong in (
        name[:-1],
        name[0] + name[2:],
        name[1] + name[0] + name[2:],
        name + "s",
        name.replace("_", "").upper(),
    ):
        if wrong not in FIELDS and wrong.lower() not in _SETTINGS:
            assert name in meant(refused(lambda wrong=wrong: make_settings({wrong: 3})))


@given(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=14), st.sampled_from(sorted(FIELDS)))
def test_what_is_proposed_is_near(name, known):
    for close in near(name, [known]):
        assert abs(len(close.replace("_", "")) - len(name.replace("_", ""))) <= 2
        assert len(set(close) - set(name)) <= 2


def test_each_word_is_of_one_meaning_and_each_meaning_exists():
    words = [word for each, _ in _OF_OTHERS for word in each.split()]
    assert sorted(set(words)) == sorted(words)
    assert all(
        name in FIELDS or name == "quiet" for _, meant in _OF_OTHERS if isinstance(meant, tuple) for name in meant
    )
    assert not {name.replace("_", "") for name in FIELDS} & set(words)
    assert set(COMMANDS_OF_OTHERS.values()) <= {*COMMANDS, "--version"}


def test_short_lists_are_told_in_full():
    assert nearest("resnet", ["lenet", "mlp"]) == "known: lenet, mlp"
    assert nearest("lennet", ["lenet", "mlp"]) == "did you mean 'lenet'?"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Conv(3, kernel_size=5), "conv has no setting 'kernel_size'; did you mean 'size'?"),
        (lambda: Conv(filters=3, size=5), "did you mean 'channels'?"),
        (lambda: Conv(3, 5, activation="relu"), "an activation is a layer of its own"),
        (lambda: Dense(in_features=3), "it takes what the layer before gives"),
        (lambda: Dense(out_features=3), "did you mean 'units'?"),
        (lambda: Flatten(dim=1), "flatten has no setting 'dim'; it has none"),
        (lambda: adam_mp.Dropout(p=0.5), "did you mean 'rate'?"),
    ],
)
def test_keywords_of_layers(make, said):
    assert said in refused(make)


def test_names_of_layers():
    with pytest.raises(AttributeError, match="the layer of that meaning is Dense"):
        _ = adam_mp.Linear
    with pytest.raises(AttributeError, match=r"no attribute 'Attention'$"):
        _ = adam_mp.Attention


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit"], "unknown command 'fit'; did you mean 'train'?"),
        (
            ["train", "--patience", "2"],
            "unknown flag --patience; there is no early stopping by patience; --target-accuracy",
        ),
        (["train", "--epoch", "3"], "unknown flag --epoch; did you mean '--epochs'?\n"),
        (["train", "--epochs", "0"], "--epochs is 0; expected"),
        (["train", "--servers", "2", "--join", "a:1"], "--servers starts parameter servers, --join uses"),
        (["evaluate", "there", "--workers", "2"], "did you mean '--cores'?"),
        (["evaluate", "there", "--patience", "2"], "unknown flag --patience; see adam-mp evaluate --help"),
    ],
)
def test_the_command_line_names_flags(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("give --servers N or --join HOST:PORT too", "give servers=N or join=HOST:PORT too"),
        ("--data-servers 2 would use it", "data_servers=2 would use it"),
        ("give --join none", "give join='none'"),
        ("--epochs is 0; expected", "epochs is 0; expected"),
        ("see adam-mp train --help", "see adam-mp train --help"),
        ("pack the files: tar --dereference", "pack the files: tar --dereference"),
        ("a--b, -- and ---c", "a--b, -- and ---c"),
        ("use --lr '0.1 * warmup'", "use lr '0.1 * warmup'"),
        ("share of --cache 60% is", "share of cache 60% is"),
    ],
)
def test_flags_are_keywords_in_the_library(text, keywords):
    assert spoken(text) == keywords
    with speaking_flags():
        assert spoken(text) == text


class Rude:
    """Its own methods raise."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __len__ = __repr__


class Long:
    def __repr__(self):
        return "long " * 10_000


ODD = {
    "array": np.zeros((50, 40)), "text": "y" * 5000, "rude": Rude(), "long": Long(), "object": object(),
    "dict": {str(i): i for i in range(2000)}, "list": list(range(3000)), "function": lambda: 0, "class": dict,
    "bytes": b"z" * 3000, "huge": 10**6000, "nan": float("nan"), "set": set(range(900)), "lines": "a\nb\n" * 50,
    "nul": "a\0b", "complex": 1j, "layers": [Conv(3, 3)] * 400, "module": np, "surrogate": "\udc80",
    "deep": [[[1] * 900]],
}  # fmt: skip
X, Y = np.zeros((60, 8), np.float32), np.arange(60) % 3


def is_short(message):
    return len(message) <= 600 and "\n" not in message and "object at 0x" not in message and "long long" not in message


@pytest.mark.parametrize("name", ODD)
def test_no_message_prints_an_object(name, tmp_path):
    odd = ODD[name]
    assert len(shown(odd)) <= 90
    few = {"cores": 1, "epochs": 1, "quiet": True, "run_dir": tmp_path / "run"}
    layers = [Flatten(), odd, Dense(), Softmax()]
    assert is_short(refused(lambda: adam_mp.train(odd, (X, Y), **few)))
    assert is_short(refused(lambda: adam_mp.train("mlp", odd, **few)))
    assert is_short(refused(lambda: adam_mp.train("mlp", (odd, Y), **few)))
    assert is_short(refused(lambda: adam_mp.train(layers, (X, Y), **few)))
    assert is_short(refused(lambda: Conv(odd, 3)))
    assert is_short(refused(lambda: make_settings({name * 3000: odd})))
    if name != "rude":  # numpy asks each element of labels for its length
        assert is_short(refused(lambda: adam_mp.train("mlp", (X, odd), **few)))


@pytest.mark.parametrize("setting", [name for name in FIELDS if name not in ("model", "data")])
def test_no_setting_takes_an_odd_object_nor_prints_it(setting):
    for name, odd in ODD.items():
        message = ""
        try:
            TrainSettings(**{setting: odd})
        except SettingsError as error:
            message = str(error)
        assert is_short(message), name
        assert message or isinstance(odd, str) or setting in ("augment", "image_size"), name


def test_a_path_that_exists_is_no_unknown_name(tmp_path):
    run = tmp_path / "run"
    few = {"cores": 1, "epochs": 1, "quiet": True}
    done = adam_mp.train([Flatten(), Dense(), Softmax()], (X + Y[:, None], Y), **few, run_dir=run)
    for start in (done.model, run, str(run), run / "model.safetensors"):
        message = refused(lambda start=start: adam_mp.train(start, (X + Y[:, None], Y), **few))
        assert "cannot start from saved weights" in message
        assert "unknown" not in message
        assert is_short(message)
    (tmp_path / "net.py").write_text("")
    message = refused(lambda: adam_mp.train(Path(tmp_path / "net.py"), (X + Y[:, None], Y), **few))
    assert "a file without the ending .toml" in message
