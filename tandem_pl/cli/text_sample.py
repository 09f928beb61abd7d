"""A short text that a language model writes at the end of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.modes import evaluating
from tandem_pl.objectives.packed_forward import logits_of
from tandem_pl.randomness import private_randomness
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.sharding import is_sharded

GIVEN = 24  # tokens of a target sample, which the network continues
LENGTH = 96  # tokens with the given ones
TEMPERATURE = 0.8  # below 1: likelier tokens, without the repetitions of the likeliest

Decode = Callable[[Sequence[int]], str]


def draw_tokens(network: nn.Module, given: Tensor, length: int, seed: int = 0) -> list[int]:
    """Return token ids [length]: the given ones [T], and those that the network draws after them.

    The draws are a generator's of this function, and the network is in eval mode; no state of the
    run changes.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = given[None]
    with torch.no_grad(), evaluating(network), private_randomness(given.device):
        while tokens.shape[1] < length:
            logits = logits_of(network(input_ids=tokens))[0, -1].float().cpu()
            shares = torch.softmax(logits / TEMPERATURE, dim=0)
            drawn = torch.multinomial(shares, 1, generator=generator)
            tokens = torch.cat([tokens, drawn[None].to(tokens)], dim=1)
    return tokens[0].tolist()


def write_sample(trainer: Trainer, module: Any, data: Any) -> tuple[str, str] | None:
    """Return the text given to the network and the text that it wrote; None if it writes none.

    It needs an objective of tokens, target samples with `input_ids`, a tokenizer of the data
    module, and a network that is not sharded.
    """
    decode = _decoder(data)
    sets = list(data.target_sets.values())
    tokens = isinstance(module, MixtureModule) and getattr(module.objective, "of_tokens", False)
    if not tokens or decode is None or not sets or is_sharded(module.network):
        return None
    sample = sets[0][0]
    if not isinstance(sample, Mapping) or "input_ids" not in sample:
        return None
    ids = torch.as_tensor(sample["input_ids"])
    given = min(GIVEN, len(ids) // 2)
    with trainer.precision_plugin.forward_context():
        drawn = draw_tokens(module.network, ids[:given].to(module.device), min(len(ids), LENGTH))
    return decode(drawn[:given]), decode(drawn[given:])


def _decoder(data: Any) -> Decode | None:
    tokenizer = getattr(data, "tokenizer", None)
    if tokenizer is None and getattr(data, "tokenizer_name", None):
        tokenizer = load_tokenizer(data.tokenizer_name)
    return getattr(tokenizer, "decode", None)
