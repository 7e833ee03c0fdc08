"""Values of another scale than those trained on are told; images that are only unusual are not."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp import Dense, Flatten, Model, Network, Softmax
from adam_mp.compute.value_scale import other_scale
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from adam_mp.network.initialization import initial_weights

BYTES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(40) % 2


def trained_on(images):
    network = Network.build([Flatten(), Dense(), Softmax()], images.shape[1:], 2)
    return Model(network, initial_weights(network, 1), (images.mean(),), (images.std(),), 0.0)


def test_a_network_sees_the_scale_that_it_was_trained_on():
    on_bytes, on_fractions = trained_on(BYTES), trained_on(BYTES / 255)
    for model, images in (
        (on_bytes, BYTES / 255),
        (on_bytes, BYTES * 257.0),
        (on_fractions, BYTES),
        (on_bytes, BYTES[:1] / 255),
    ):
        with pytest.raises(DataError, match="another scale than the model's: their values go from"):
            model.predict(images)
    for model, images in ((on_bytes, BYTES), (on_fractions, BYTES / 255), (on_bytes, BYTES * 1.0)):
        assert model.predict(images).shape == (40, 2)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 8, 8, 1)), np.full((1, 8, 8, 1), 255), np.eye(8)[None, ..., None] * 255, BYTES[:0], BYTES // 9],
)
def test_dark_and_light_images_are_of_the_same_scale(images):
    assert other_scale(images, 30.0, 70.0) == ""


def test_rare_features_may_be_large():
    features = np.random.default_rng(0).random((50, 1, 1, 9))
    features[0, ..., 3] = 1e6
    assert other_scale(features, features[1:].mean((0, 1, 2)), features[1:].std((0, 1, 2))) == ""


def test_parts_of_one_data_set_have_one_scale():
    for train, test in ((BYTES / 255, BYTES * 1.0), (BYTES * 1.0, BYTES / 255)):
        with pytest.raises(DataError, match="test images of arrays have another scale than the training images"):
            load_data((train, LABELS, test, LABELS))
    assert load_data((BYTES, LABELS, BYTES // 2, LABELS)).test is not None


def test_what_is_no_image_is_refused():
    model = trained_on(BYTES)
    for images in (np.full((1, 8, 8), np.nan), np.zeros((1, 8, 8), complex), np.zeros((1, 8, 8), "m8[s]")):
        with pytest.raises(DataError):
            model.predict(images)


@pytest.mark.parametrize("labels", [[5] * 40, [-1] * 40, [0.5] * 40, [b"red"] * 40])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(DataError, match="none of the model's"):
        trained_on(BYTES).evaluate(BYTES, labels)
