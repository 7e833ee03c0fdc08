"""Images in pairs and parts in names, whatever words the names have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.reading.name_patterns import drawn_images, paired_images, parted_images, shards_apart


def numbered(*forms, count=12):
    return [f"cat/{form.format(number)}" for number in range(1, count + 1) for form in forms]


@pytest.mark.parametrize(
    ("image", "drawn"),
    [
        ("{:04}_sat.png", "{:04}_mask.png"),
        ("img{:04}.png", "mask{:04}.png"),
        ("{:04}.png", "{:04}_lesion_mask.png"),
        ("US_{:04}.png", "US_{:04}_tumor_mask.png"),
        ("aachen_0_{:06}_leftImg8bit.png", "aachen_0_{:06}_gtFine_labelIds.png"),
        ("{:03}.jpg", "{:03}_pred_mask.png"),
        ("{:03}.jpg", "Mask of {:03}.png"),
        ("{:03}.jpg", "gt{:03}.png"),
        ("{:03}.jpg", "{:03}_SegmentationClass.png"),
        ("frame_{}_original.jpg", "frame_{}_predicted.jpg"),
    ],
)
def test_what_is_drawn_from_an_image_of_the_same_number_is_found(image, drawn):
    images = numbered(image, drawn)
    assert drawn_images(images) == {name for name in images if name in numbered(drawn)}
    some_drawn = [*numbered(image), *numbered(drawn, count=5)]
    assert drawn_images(some_drawn) in (set(), {*numbered(drawn, count=5)})


def test_where_some_images_have_a_mask_it_is_found_if_the_image_has_no_word_of_its_own():
    for image, drawn in (("US_{:04}.png", "US_{:04}_tumor_mask.png"), ("img{:04}.png", "mask{:04}.png")):
        some_drawn = [*numbered(image), *numbered(drawn, count=5)]
        assert drawn_images(some_drawn) == {*numbered(drawn, count=5)}


@pytest.mark.parametrize(
    ("images", "others"),
    [
        ([f"VW/gt_{n}.jpg" for n in range(1, 40)], [f"VW/golf_{n}.jpg" for n in range(1, 90)]),
        ([f"face/with_mask_{n}.jpg" for n in range(100)], [f"face/without_{n}.jpg" for n in range(100)]),
        ([f"bottle/label_{n}.jpg" for n in range(50)], [f"bottle/front_{n}.jpg" for n in range(50)]),
        ([f"sign/label ({n}).jpg" for n in range(1, 30)], [f"sign/sign ({n}).jpg" for n in range(1, 80)]),
        ([f"cat/instance_{n}.jpg" for n in range(50)], [f"cat/{n}.jpg" for n in range(500)]),
        ([f"x/contour{n}.jpg" for n in range(1, 4)], [f"x/img{n}.jpg" for n in range(1, 600)]),
    ],
)
def test_two_series_that_begin_with_the_same_numbers_are_not_drawn_from_each_other(images, others):
    assert not drawn_images([*images, *others])


@pytest.mark.parametrize(
    "images",
    [
        numbered("IMG_{:04}.jpg"),
        numbered("mask_{:04}.jpg"),  # a class of masks
        [*numbered("IMG_{:04}.jpg"), *(f"cat/mask_{number}.jpg" for number in range(500, 520))],
        [f"cat/{name}.jpg" for name in ("tom", "tom_mask_party", "garfield")],
        [f"a/{number}.jpg" for number in range(9)] + [f"b/{number}_mask.jpg" for number in range(9)],
    ],
)
def test_other_images_are_kept(images):
    assert not drawn_images(images)
    assert paired_images(images) is None


def test_pairs_without_a_word_for_what_is_drawn_are_told():
    assert paired_images(numbered("{:03}.jpg", "{:03}_vis.jpg")) == ("cat/001.jpg", "cat/001_vis.jpg")
    assert paired_images([*numbered("{:03}.jpg", count=40), *numbered("{:03}_vis.jpg", count=12)]) is None
    assert paired_images([f"cat/{one}_{two}.jpg" for one in range(9) for two in range(4)]) is None


@given(st.lists(st.text("ab1_-.", min_size=1, max_size=6), max_size=30, unique=True))
def test_any_names_are_taken(names):
    images = [f"cat/{name}.png" for name in names]
    assert drawn_images(images) == set()
    pair = paired_images(images)
    assert pair is None or {*pair} <= {*images}
    parted_images(images)


def test_parts_in_names_are_told_if_nearly_all_names_have_them():
    images = [*numbered("Training_{}.jpg", count=40), *numbered("PublicTest_{}.jpg", count=6)]
    assert parted_images(images) == ("cat/Training_1.jpg", "cat/PublicTest_1.jpg")
    assert parted_images(numbered("train_{}.jpg")) is None
    assert parted_images([*images, *numbered("{}.jpg", count=40)]) is None
    assert parted_images([*numbered("valley_{}.jpg"), *numbered("contest_{}.jpg")]) is None
    assert parted_images(["cat/train_1.jpg"] * 100 + ["cat/test_tube.jpg"]) is None


@pytest.mark.parametrize(
    ("stems", "named"),
    [
        (("flowers-0", "flowers-holdout-0"), "flowers-holdout-0.tar may not"),
        (("flowers-0", "flowers-dev-0"), "flowers-dev-0.tar may not"),
        (("flowers_trn", "flowers_tst"), "flowers_tst.tar may not"),
        (("imagenet-0000", "imagenet-query-0000"), "imagenet-query-0000.tar may not"),
        (("flowers-0", "flowers-test-0"), "flowers-test-0.tar may not"),
        (("a-0", "a-1", "a-2", "b-0", "b-1"), "a-0.tar, b-0.tar, are all"),
    ],
)
def test_shards_that_may_be_held_out_are_told(stems, named):
    assert named in shards_apart(stems)


@pytest.mark.parametrize(
    "stems",
    [("0000", "0001"), ("flowers-0", "flowers-1"), ("cat", "dog", "bird", "fish", "horse", "cow"), ("dev-0", "dev-1")],
)
def test_other_shards_are_not(stems):
    assert shards_apart(stems) is None
