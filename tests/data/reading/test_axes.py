"""Arrays whose axes are in another order than expected are refused, with the line to write."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.model import Model
from adam_mp.data.reading.axes import UNKNOWN, odd_channels, order_of_images
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((20, 3, 32, 32), ".transpose(0, 2, 3, 1)"),
        ((20, 1, 28, 28), ".transpose(0, 2, 3, 1)"),
        ((20, 4, 30, 50), ".transpose(0, 2, 3, 1)"),
        ((20, 12, 64, 64), ".transpose(0, 2, 3, 1)"),
        ((32, 32, 3, 20), ".transpose(3, 0, 1, 2)"),
        ((28, 28, 20), ".transpose(2, 0, 1)"),
        ((8, 20), ".T"),
        ((3, 28, 28, 20), ".transpose(3, 1, 2, 0)"),
        ((28, 3, 30, 20), ".transpose(3, 0, 2, 1)"),
        ((20, 28, 3, 30), ".transpose(0, 1, 3, 2)"),
        ((20, 32, 32, 3), ""),
        ((20, 32, 32, 1), ""),
        ((20, 28, 28), ""),
        ((20, 8), ""),
        ((20, 3, 3, 3), ""),
        ((20, 1, 5, 3), ""),
        ((20, 1, 1, 8), ""),
        ((20, 9, 9, 200), ""),
        ((20, 20, 20), ""),
        ((20, 32, 32, 20), ""),
    ],
)
def test_arrays(shape, advice):
    assert order_of_images(shape, 20) == advice
    images, labels = np.zeros(shape, np.uint8), np.arange(20) % 2
    if not advice:
        assert len(load_data((images, labels)).train) == 20
        return
    with pytest.raises(DataError, match="seem to be in another order") as caught:
        load_data((images, labels))
    assert str(caught.value).endswith(f"write images{advice}")
    turned = eval(f"images{advice}")
    assert len(load_data((turned, labels)).train) == 20


def test_the_order_is_not_told_where_the_number_of_images_is_wrong():
    assert order_of_images((30, 3, 28, 28), 20) == ""
    assert order_of_images((30, 3, 28, 28), UNKNOWN) == ".transpose(0, 2, 3, 1)"


def test_what_is_no_array_of_images():
    with pytest.raises(DataError, match="are images and labels exchanged"):
        load_data((np.arange(9) % 2, np.zeros((9, 4, 4))))
    with pytest.raises(DataError, match=r"write images\.filled"):
        load_data((np.ma.masked_array(np.zeros((4, 3)), np.eye(4, 3)), [0, 1, 0, 1]))
    with pytest.raises(DataError, match="type timedelta64"):
        load_data((np.zeros((4, 3), "m8[s]"), [0, 1, 0, 1]))
    with pytest.raises(DataError, match=r"images are no array: .*; expected images of one shape"):
        load_data(([np.zeros((2, 2)), *[np.zeros((3, 3))] * 2], [0, 1, 1]))
    with pytest.raises(DataError, match=r"numpy\.stack"):
        load_data((np.array([np.zeros((2, 2)), None], object), [0, 1]))
    with pytest.raises(DataError, match="one label an image"):
        load_data((np.zeros((4, 5, 6)), np.array(3)))
    assert len(load_data((np.zeros((6, 5, 5, 1)), np.array([[0, 1] * 3]))).train) == 6


def test_many_channels_are_told():
    assert "200 channels of 9x9 pixels" in odd_channels((9, 9, 200))
    assert load_data((np.zeros((20, 9, 9, 200), np.uint8), np.arange(20) % 2)).notices
    assert not load_data((np.zeros((20, 200), np.uint8), np.arange(20) % 2)).notices


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (np.zeros((3, 32, 32), np.uint8), "write image.transpose(1, 2, 0)"),
        (np.zeros((3, 32, 32), np.float32), "write (255 * image).transpose(1, 2, 0).astype(numpy.uint8)"),
        (np.full((32, 32, 3), 200, np.int64), "write image.astype(numpy.uint8)"),
    ],
)
def test_items(image, advice):
    with pytest.raises(DataError) as caught:
        load_data([(image, number % 2) for number in range(8)])
    assert str(caught.value).endswith(advice)


def test_a_model_names_the_order_too():
    network = load_network("mlp", (8, 6, 3), 4)
    model = Model(network, initial_weights(network, 0), (0.0,) * 3, (1.0,) * 3, class_names=("a", "b", "c", "d"))
    assert model.predict(np.zeros((2, 8, 6, 3))).shape == (2, 4)
    for shape, advice in (((2, 3, 8, 6), "write images.transpose(0, 2, 3, 1)"),
                          ((3, 8, 6), "write images.transpose(1, 2, 0)")):  # fmt: skip
        with pytest.raises(DataError) as caught:
            model.predict(np.zeros(shape))
        assert str(caught.value).endswith(advice)
    images = np.zeros((4, 8, 6, 3))
    best = model.class_names[int(model.predict(images)[0].argmax())]
    assert model.evaluate(images, [best] * 4) == 1
    assert model.evaluate(images, np.array([[model.class_names.index(best)]] * 4)) == 1
    with pytest.raises(DataError, match=r"write numpy.argmax\(labels, axis=1\)"):
        model.evaluate(images, np.eye(4))
    with pytest.raises(DataError, match="'e' is none of the model's 4 names"):
        model.evaluate(images, ["e"] * 4)
