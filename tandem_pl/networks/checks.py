"""Checks that a network fits the data: vocabulary, channels and classes."""

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from tandem_pl.errors import InputError

MUCH_LARGER = 4.0  # a network's vocabulary than the data's, times
MANY_UNUSED = 4096  # tokens of the network that the data has not; fewer cost little


def vocabulary_size(network: nn.Module) -> int | None:
    """Return how many tokens a network can embed; None if it does not say."""
    try:
        return int(network.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    except (AttributeError, NotImplementedError, IndexError):
        return None


def check_vocabulary(network: nn.Module, tokens: int | None) -> None:
    """Raise an error for data with more tokens than the network embeds; warn if it has far fewer.

    Raises:
        InputError: the ids of such tokens would be out of range.
    """
    size = vocabulary_size(network)
    if size is None or tokens is None:
        return
    if tokens > size:
        raise InputError(
            f"the data has a vocabulary of {tokens} tokens and the network embeds {size}: set the "
            "network's config.vocab_size to at least that, or use the network's own tokenizer."
        )
    if size >= MUCH_LARGER * tokens and size - tokens > MANY_UNUSED:
        rank_zero_warn(
            f"the network has a vocabulary of {size} tokens and the data one of {tokens}: training "
            f"spends much of its time on tokens that never occur, so set "
            f"model.network.config.vocab_size to {tokens}, or use the network's own tokenizer."
        )


def check_images(network: nn.Module, classes: int | None, channels: int | None) -> None:
    """Raise an error for images that do not fit the network, as far as both say what they have.

    Raises:
        InputError: more classes than outputs, or another number of channels than the network takes.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and channels is not None and channels != first.in_channels:
        raise InputError(
            f"the data has {channels} channels and the network takes {first.in_channels}: set the "
            f"network's in_chans to {channels}, or the data's channels."
        )
    outputs = getattr(network, "num_classes", None)  # of timm's networks
    if isinstance(outputs, int) and classes is not None and classes > outputs:
        raise InputError(
            f"the data has {classes} classes and the network {outputs} outputs: set the network's "
            f"num_classes to {classes}."
        )
