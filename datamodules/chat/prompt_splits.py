"""Split samples by their prompt."""

from collections.abc import Collection, Mapping

import numpy as np

from tandem_pl.datamodules.text.documents import (
    DROPPED,
    Part,
    assign_splits,
    check_enough,
    splits_for,
)


def split_by_prompt(
    prompts: Mapping[Part, np.ndarray],
    samples: Mapping[Part, np.ndarray],
    target_fraction: float,
    test_fraction: float,
    train_only: Collection[str] | None = None,
) -> dict[Part, np.ndarray]:
    """Assign every sample to the split of its prompt, and drop repeated samples.

    A part's prompts that no earlier part has are split as documents are, see `assign_splits`. A
    prompt of an earlier part keeps that part's split; if the earlier one is of target data and this
    one is not, the sample is dropped.

    Args:
        prompts: part -> keys of its samples' prompts as read, uint64 of shape `[samples, 2]`.
        samples: the same for whole samples.
        target_fraction: share of a part's prompts for the target split.
        test_fraction: share for the test split.
        train_only: parts whose own prompts are all train, see `assign_splits`.

    Returns:
        part -> uint8 of shape `[samples]`: the codes of `SPLIT_CODES`, or `DROPPED`.

    Raises:
        InputError: a part has fewer prompts of its own than splits.
    """
    sizes = [len(keys) for keys in prompts.values()]
    _, first, prompt_number = np.unique(
        np.concatenate(list(prompts.values())), axis=0, return_index=True, return_inverse=True
    )
    own = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[first], minlength=len(sizes))
    has_target = any(part.is_target for part in prompts)
    for part, size, count in zip(prompts, sizes, own.tolist(), strict=True):
        prompt, sample = "prompt" + "s" * (count != 1), "sample" + "s" * (size != 1)
        what = f"{prompt} that no other has ({size} {sample} read)"
        splits = splits_for(part, has_target, count, train_only)
        check_enough(part, splits, count, what, "add samples")
    fractions = (target_fraction, test_fraction)
    codes = np.concatenate(list(assign_splits(prompts, *fractions, train_only).values()))
    first_of = first[prompt_number.reshape(-1)]  # of each sample, the first one of its prompt
    codes = codes[first_of]
    of_target = np.repeat([part.is_target for part in prompts], sizes)
    _, kept = np.unique(np.concatenate(list(samples.values())), axis=0, return_index=True)
    repeated = np.ones(len(codes), dtype=bool)
    repeated[kept] = False
    codes[repeated | (of_target[first_of] & ~of_target)] = DROPPED
    return dict(zip(prompts, np.split(codes, np.cumsum(sizes)[:-1]), strict=True))
