from __future__ import annotations

import numpy as np
import pytest

import adam_mp
from adam_mp import BatchNorm, Conv, Dense, Flatten, GlobalAveragePool, Model, Network, ReLU, Residual, Softmax
from adam_mp.compute.calibration import calibrate
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.errors import CheckpointError
from adam_mp.network.initialization import initial_weights
from adam_mp.training.plan.calibration import images_for

LAYERS = [Conv(4, 3, padding="same", bias=False), BatchNorm(), ReLU(), Residual([Conv(4, 1), BatchNorm()]),
          GlobalAveragePool(), Dense(6), BatchNorm(), Dense(), Softmax()]  # fmt: skip


def build(layers=LAYERS):
    return Network.build(layers, (6, 5, 2), 3)


def images(count=12):
    return (np.random.default_rng(0).standard_normal((count, 6, 5, 2)) * 2 + 3).astype(np.float32)


@pytest.mark.parametrize("block", [1, 4, 12])
def test_of_one_batch_it_is_the_batch(block):
    """Then scores without training are those of training, whatever the blocks."""
    network, x = build(), images()
    context = TrainingContext(network, initial_weights(network, 1), len(x), choices=KernelChoices(block))
    training = context.program(x, np.zeros(len(x), np.int32))
    training.run_forward()
    expected = training.scores.copy()
    assert calibrate(context, [x]) == 12
    known = context.program(x, None, training=False)
    known.run_forward()
    np.testing.assert_allclose(known.scores, expected, rtol=1e-4, atol=1e-5)


def test_several_batches_count_by_their_images_and_around_the_common_mean():
    network, x = build([BatchNorm(), Flatten(), Dense(), Softmax()]), images(10)
    x[7:] += 5
    context = TrainingContext(network, initial_weights(network, 1), 7)
    assert calibrate(context, [x[:7], x[:0], x[7:]]) == 10
    (norm,) = (each for each in context.operations if each.group.batchwise)
    np.testing.assert_allclose(norm.known_mean, x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.known_variance, x.var(axis=(0, 1, 2)), rtol=1e-5)
    before = norm.known_mean.copy()
    assert calibrate(context, []) == 0
    np.testing.assert_array_equal(norm.known_mean, before)


def test_a_model_has_them_in_its_file_and_predicts_each_image_alone(tmp_path):
    network, x = build(), images()
    weights = initial_weights(network, 1)
    for name, shape in network.statistics.items():
        weights[name] = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    assert network.statistics["batch_norm3.variance"] == (6,)
    model = Model(network, weights, (0.0, 0.0), (1.0, 1.0))
    model.save(tmp_path / "model.safetensors")
    together = adam_mp.load(tmp_path / "model.safetensors").predict(x)
    np.testing.assert_allclose(np.concatenate([model.predict(x[n]) for n in range(len(x))]), together, rtol=1e-4)
    model.weights["batch_norm1.mean"][...] += 1
    assert np.abs(model.predict(x) - together).max() > 1e-4
    del model.weights["batch_norm2.mean"]
    model.save(tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"has no float32 tensor batch_norm2\.mean"):
        adam_mp.load(tmp_path / "less.safetensors")


def test_first_scales_are_one():
    weights = initial_weights(build(), 1)
    assert (weights["batch_norm1.scale"] == 1).all()
    assert not weights["batch_norm1.shift"].any()


def test_norms_of_small_images_are_measured_on_more_images():
    def images(side):
        return images_for(Network.build([Conv(2, 1), BatchNorm(), Flatten(), Dense(), Softmax()], (side, side, 1), 2))

    assert [images(side) for side in (32, 6, 4, 3, 1)] == [256, 256, 512, 911, 2048]
