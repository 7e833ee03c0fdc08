from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import adam_mp
from adam_mp.compute.columns import column_names, other_columns
from adam_mp.errors import DataError


class Frame:
    """What a data frame, or one column of it, has that tells its rows and columns."""

    def __init__(self, values, columns=("a", "b", "c"), index=None):
        self.values, self.columns = np.asarray(values), list(columns)
        self.index = np.arange(len(self.values)) if index is None else np.asarray(index)
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.values.dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, column):
        return self.values[:, self.columns.index(column)]


def test_names_are_those_of_a_data_frame():
    assert column_names(Frame(np.zeros((2, 3)))) == ("a", "b", "c")
    for given in (np.zeros((2, 3)), Frame(np.zeros((2, 3)), (0, 1, 2)), [[1, 2]], None, {"columns": "ab"}):
        assert column_names(given) == ()


def test_what_is_said_of_other_columns():
    trained = ("a", "b", "c")
    assert other_columns(trained, list(trained)) is other_columns((), trained) is other_columns(trained, ()) is None
    assert "in another order; write features[names], with the names in the order of training: 'a', 'b', 'c'" in (
        other_columns(("c", "b", "a"), trained)
    )
    for columns, said in ((("a", "x", "c"), "1 of the features is 'x', of those to train on 'b'"),
                          (("a", "b"), "2 of the features is missing, of those to train on 'c'"),
                          ((*trained, "d"), "3 of the features is 'd', of those to train on missing")):  # fmt: skip
        assert other_columns(columns, trained) == f"column {said}; expected the same columns"


@pytest.mark.usefixtures("forks")
def test_a_model_knows_the_columns_that_it_was_trained_on(tmp_path):
    features = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    layers = [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]
    trained = adam_mp.train(
        layers, (Frame(features), np.arange(60) % 3), cores=1, epochs=1, quiet=True, run_dir=tmp_path / "run"
    )
    for model in (trained.model, adam_mp.load(tmp_path / "run")):
        answer = model.predict(Frame(features))
        np.testing.assert_array_equal(answer, model.predict(features))
        with pytest.raises(DataError, match="features have the same columns as those to train on, in another order"):
            model.predict(Frame(features[:, ::-1], ("c", "b", "a")))
        with pytest.raises(DataError, match=r"the same index in another order; write labels.loc\[images.index\]"):
            model.evaluate(Frame(features), Frame(np.arange(60) % 3, index=np.arange(60)[::-1]))
        assert model.evaluate(Frame(features), Frame(np.arange(60) % 3)) == model.evaluate(features, np.arange(60) % 3)
    unknown = dataclasses.replace(trained.model, reading={})  # of an earlier version
    np.testing.assert_array_equal(unknown.predict(Frame(features, ("x", "y", "z"))), answer)
