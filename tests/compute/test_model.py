from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adam_mp
from adam_mp import Dense, Flatten, Model, Network, Softmax
from adam_mp.compute import tensor_file
from adam_mp.compute.tensor_file import read_tensors, write_tensors
from adam_mp.errors import CheckpointError, DataError, SettingsError
from adam_mp.network.initialization import initial_weights


def make(shape=(4, 4, 1), classes=3):
    network = Network.build([Flatten(), Dense(5), Dense(), Softmax()], shape, classes)
    channels = shape[2]
    return Model(network, initial_weights(network, 1), (2.0,) * channels, (3.0,) * channels, 0.0)


def test_predictions_are_probabilities_of_the_normalised_images():
    model = make()
    images = np.random.default_rng(0).integers(0, 9, (130, 4, 4))
    probabilities = model.predict(images)
    x = (images.reshape(130, 16) - 2.0) / 3.0
    scores = (x @ model.weights["dense1.weight"]) @ model.weights["dense2.weight"]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    assert model.evaluate(images, expected.argmax(axis=1)) == 1.0


def test_predictions_over_several_views_are_of_their_mean_scores():
    model = make()
    images = np.random.default_rng(0).integers(0, 9, (130, 4, 4))
    scores = (
        sum(
            (each.reshape(130, 16) - 2.0) / 3.0 @ model.weights["dense1.weight"] @ model.weights["dense2.weight"]
            for each in (images, images[:, :, ::-1])
        )
        / 2
    )
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(images, views="reflect"), expected, rtol=1e-4)
    assert np.abs(model.predict(images) - expected).max() > 1e-3
    assert model.evaluate(images, expected.argmax(axis=1), views="reflect") == 1.0
    for views in ("shift=4", "mirror"):
        with pytest.raises(SettingsError, match=f"^views is '{views}'"):
            model.predict(images, views=views)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (0, 4, 4), (2, 4, 4), (2, 4, 4, 1)])
def test_shapes_that_fit(shape):
    count = 1 if shape[0] == 4 else shape[0]
    assert make().predict(np.zeros(shape)).shape == (count, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 5, 4)), np.zeros(16), np.zeros((2, 4, 4, 3)), ["a"], np.zeros((2, 16))]
)
def test_shapes_that_do_not(images):
    with pytest.raises(DataError):
        make().predict(images)


def test_labels_must_match():
    with pytest.raises(DataError, match="one label an image"):
        make().evaluate(np.zeros((2, 4, 4)), [1])


@pytest.mark.parametrize("labels", [[5, 1], [-1, 0], [0.5, 1], [b"red", b"blue"], [np.nan, 0]])
def test_labels_must_be_classes(labels):
    with pytest.raises(DataError, match="none of the model's"):
        make().evaluate(np.zeros((2, 4, 4)), labels)


def test_features_are_taken_as_rows():
    assert make((1, 1, 6)).predict(np.zeros((3, 6))).shape == (3, 3)


def test_save_and_load(tmp_path):
    model = make()
    model.save(tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", tmp_path, str(tmp_path)):
        again = adam_mp.load(path)
        assert again.network == model.network
        assert (again.mean, again.deviation, again.fill) == (model.mean, model.deviation, model.fill)
        for name, weights in model.weights.items():
            np.testing.assert_array_equal(again.weights[name], weights)


@given(st.data())
def test_damaged_files_are_recognised(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    make().save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded = adam_mp.load(path)
    except CheckpointError:
        return
    assert loaded.network == make().network  # the change was in what carries no meaning, such as a blank
    for name, weights in make().weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weights)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        adam_mp.load(tmp_path / "nothing")
    (tmp_path / "own.toml").write_text("epochs = 3\n" * 9)
    with pytest.raises(CheckpointError) as caught:
        adam_mp.load(tmp_path / "own.toml")
    assert str(caught.value) == f"{tmp_path}/own.toml is no model or checkpoint file of adam_mp, or is damaged"
    write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(3)}, {"format": "other"})
    with pytest.raises(CheckpointError, match="'other'"):
        adam_mp.load(tmp_path / "x.safetensors")
    tensors, metadata = read_tensors(tmp_path / "x.safetensors", "other")
    assert tensors["a"].tolist() == [0, 0, 0]
    assert metadata["format"] == "other"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    make().save(path)
    before = path.read_bytes()

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        make((4, 4, 1), 5).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_what_is_no_image_is_refused():
    model = make()
    for images in (np.nan, 1j, np.timedelta64(1, "s")):
        with pytest.raises(DataError):
            model.predict(np.full((1, *model.network.input_shape), images))


@pytest.mark.parametrize("labels", [[50] * 4, [-1] * 4, [0.5] * 4, [b"red"] * 4])
def test_labels_that_are_no_classes_are_refused(labels):
    model = make()
    with pytest.raises(DataError, match="none of the model's"):
        model.evaluate(np.zeros((4, *model.network.input_shape), np.uint8), labels)


def test_names_are_labels_in_whatever_form_they_are_stored():
    model = dataclasses.replace(make(), class_names=("caf\u00e9", "tea", "x"))
    images = np.zeros((2, 4, 4))
    for labels in (["caf\u00e9", "tea"], ["cafe\u0301", "tea"], ["caf\u00e9".encode(), b"tea"]):
        assert model.evaluate(images, labels) == model.evaluate(images, [0, 1])
    with pytest.raises(DataError, match="bytes that are no text"):
        model.evaluate(images, [b"caf\xe9", b"tea"])
    with pytest.raises(DataError, match="'cafe' is none of the model's 3 names"):
        model.evaluate(images, ["cafe", "tea"])


def test_numbers_are_no_labels_of_classes_that_have_other_numbers_as_names():
    images = np.zeros((2, 4, 4))
    for names in (("1", "2", "3"), ("0", "10", "2")):
        model = dataclasses.replace(make(), class_names=names)
        with pytest.raises(DataError, match=r"have other numbers as names .* give the names: labels.astype"):
            model.evaluate(images, [1, 2])
        assert model.evaluate(images, [names[1], names[2]]) in (0, 0.5, 1)
    for names in (("0", "1", "2"), ("cat", "1", "2"), ()):
        same = dataclasses.replace(make(), class_names=names)
        assert same.evaluate(images, [1, 2]) == make().evaluate(images, [1, 2])


def test_labels_that_are_counted_from_0_where_those_to_train_on_were_not():
    model, images = dataclasses.replace(make(), reading={"untrained": [0]}), np.zeros((2, 4, 4))
    with pytest.raises(
        DataError, match=r"labels go from 0 to 1, but those to train on went from 1 to 2; .* labels \+ 1"
    ):
        model.evaluate(images, [0, 1])
    for labels in ([1, 2], [1, 1], [0, 2]):
        assert model.evaluate(images, labels) == make().evaluate(images, labels)


def test_booleans_are_labels_of_two_classes():
    images = np.zeros((2, 4, 4))
    with pytest.raises(DataError, match="labels are booleans, but the model has 3 classes"):
        make().evaluate(images, [True, False])
    assert make(classes=2).evaluate(images, [True, False]) == 0.5
    for names in (("False", "True"), ("0", "1"), ("false", "TRUE")):
        assert dataclasses.replace(make(classes=2), class_names=names).evaluate(images, [True, False]) == 0.5
    named = dataclasses.replace(make(classes=2), class_names=("cancer", "well"))
    for labels in ([True, False], np.array([True, False], object)):
        with pytest.raises(DataError, match=r"classes have names .*numpy.where\(labels, 'well', 'cancer'\)"):
            named.evaluate(images, labels)
    assert named.evaluate(images, [1, 0]) == 0.5


def test_images_of_several_shapes_are_refused():
    with pytest.raises(DataError, match=r"images are no array: .* expected images of one shape"):
        make().predict([np.zeros((4, 4)), np.zeros((5, 4))])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_a_run_that_diverged_answer_nothing(value):
    model = make()
    name = next(iter(model.weights))
    model = dataclasses.replace(model, weights={**model.weights, name: np.full_like(model.weights[name], value)})
    for answer in (lambda: model.predict(np.zeros((2, *model.network.input_shape))), model.check_weights):
        with pytest.raises(DataError, match=f"the model's {name} holds NaN or infinite weights"):
            answer()
