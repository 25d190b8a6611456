"""Which images may go."""

from __future__ import annotations

from node.imagecollection import ENOUGH, FULL, MIN_AGE_S, ImageUse, too_full


def test_the_longest_unused_goes_first_and_nothing_in_use_ever() -> None:
    use = ImageUse()
    use.observe(["a", "b", "c"], {"a", "b"}, 0.0)
    use.observe(["a", "b", "c"], {"b"}, 100.0)  # a was last used at 0 as well, but c never: both count from 0
    use.observe(["a", "b", "c"], {"a", "b"}, 200.0)
    use.observe(["a", "b", "c"], {"b"}, 1_000.0)
    assert use.removable(1_000.0) == ["c", "a"]


def test_an_image_that_just_came_or_was_just_used_stays() -> None:
    use = ImageUse()
    use.observe(["old"], (), 0.0)
    use.observe(["old", "new"], (), 500.0)
    assert use.removable(500.0) == ["old"]
    assert use.removable(500.0 + MIN_AGE_S) == ["old", "new"]


def test_an_image_that_went_is_forgotten_and_begins_anew() -> None:
    use = ImageUse()
    use.observe(["a"], (), 0.0)
    use.observe([], (), 300.0)
    use.observe(["a"], (), 310.0)
    assert use.removable(310.0) == []


def test_collecting_begins_at_one_share_and_ends_at_a_lower() -> None:
    assert too_full(10, 100, FULL)
    assert not too_full(16, 100, FULL)
    assert too_full(16, 100, ENOUGH)
    assert not too_full(20, 100, ENOUGH)
