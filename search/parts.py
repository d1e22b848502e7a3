"""In how many parts a batch goes through the model where it does not fit into memory whole."""

from __future__ import annotations


def divides(batch_size: int, accumulate: int) -> bool:
    """Whether a batch in so many parts can be in more of them."""
    return batch_size // accumulate > 1


def half(batch_size: int, accumulate: int) -> int:
    """The most examples that a part may have once parts of this size have run out of memory."""
    assert divides(batch_size, accumulate), "one example has no half"
    return batch_size // accumulate // 2


def parts(batch_size: int, accumulate: int, *, most: int) -> int:
    """The fewest equal parts of at most `most` examples: a multiple of `accumulate`, which divides the batch size."""
    assert batch_size % accumulate == 0 and most >= 1, "the recipe's parts are equal, and none is empty"
    share = batch_size // accumulate
    return accumulate * next(count for count in range(1, share + 1) if share % count == 0 and share // count <= most)
