from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.augmentation import PRESETS, Augmentation, draw_key, mirrored_names, parse_augmentation, picture_key
from adam_mp.errors import SettingsError

IMAGE = (28, 28, 1)


def test_presets_and_the_automatic_choice():
    assert parse_augmentation("none", IMAGE) == Augmentation()
    assert parse_augmentation("auto", IMAGE) == PRESETS["mnist"]
    assert parse_augmentation("auto", (1, 1, 30)) == PRESETS["none"]


@given(st.floats(0, 20), st.floats(0, 1))
def test_what_it_prints_it_reads(translate, reflect):
    augmentation = Augmentation(translate=round(translate, 2), reflect=round(reflect, 2))
    assert parse_augmentation(str(augmentation), IMAGE) == augmentation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mnis", "did you mean 'mnist'"),
        ("rotat=3", "did you mean 'rotate'"),
        ("rotate=x", "rotate is 'x'"),
        ("rotate=-1", "rotate is -1"),
        ("rotate=nan", "rotate is nan"),
        ("reflect=2", "reflect is 2; expected 0 to 1 or alternate"),
        ("reflect=alternat", "reflect is 'alternat'; expected a number or alternate"),
        ("shift=1.5", "shift is 1.5; expected a whole number from 0 to 10000"),
        ("border=edge", "border is 'edge'; expected fill or reflect"),
        ("border=1", "border is 1; expected fill or reflect"),
        ("rotate=3,", "unknown transformation ''"),
        ("", "unknown augmentation"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(SettingsError, match=message):
        parse_augmentation(text, IMAGE)


@pytest.mark.parametrize("text", ["reflect=alternate,border=reflect", "shift=3", "erase=0.25,border=reflect", "none"])
def test_words_stand_for_numbers(text):
    augmentation = parse_augmentation(text, IMAGE)
    assert str(augmentation) == text
    assert Augmentation.of(augmentation.values) == augmentation
    assert parse_augmentation(text.replace("none", "border=fill"), IMAGE) == augmentation


def test_keys_of_pictures_tell_the_epoch():
    keys = {picture_key(seed, epoch): epoch for seed in range(30) for epoch in range(30)}
    assert len(keys) == 900
    assert all(0 <= key < 2**64 and key & 0xFFFFFFFF == epoch for key, epoch in keys.items())


def test_keys_are_far_apart():
    keys = {draw_key(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(keys) == 900
    assert all(0 <= key < 2**64 for key in keys)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["down", "left", "right"], ("left", "right")), (["Turn_Right", "turn_left"], ("Turn_Right", "turn_left")),
        (["hand left", "hand right"], ("hand left", "hand right")), (["left_eye", "right_ear"], None), ([], None),
        (["cw", "ccw"], ("cw", "ccw")), (["anticlockwise", "clockwise"], ("anticlockwise", "clockwise")),
        (["leftover", "rightover"], None), (["bright", "bleft"], None),
    ],
)  # fmt: skip
def test_classes_that_are_mirror_images_of_each_other(names, found):
    assert mirrored_names(names) == found


def test_a_transformation_is_left_out():
    assert str(PRESETS["imagenet"].without("reflect")) == "crop=0.08,colour=0.1"
    assert str(Augmentation(reflect=1).without("reflect")) == "none"
