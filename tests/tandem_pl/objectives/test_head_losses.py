"""Losses from hidden states are those of whole logits, for the networks of transformers."""

import pytest
import torch

from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling, head_losses, output_head

VOCABULARY = 61
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
WIDE = {"intermediate_size": 24, "max_position_embeddings": 32}
KEYS = WIDE | {"num_key_value_heads": 1}
FAMILIES = {
    "gpt_neox": ("gpt_neox", WIDE),
    "gpt_neox_tied": ("gpt_neox", WIDE | {"tie_word_embeddings": True}),
    "llama": ("llama", KEYS),
    "qwen2": ("qwen2", KEYS | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", KEYS | {"head_dim": 8}),
    "gemma2": ("gemma2", KEYS | {"head_dim": 8, "final_logit_softcapping": 1.5}),
    "gemma3_text": ("gemma3_text", KEYS | {"head_dim": 8, "final_logit_softcapping": None}),
    "mistral": ("mistral", KEYS),
    "phi": ("phi", WIDE),  # its head has a bias
    "olmo": ("olmo", KEYS),
    "gpt2": ("gpt2", {"n_positions": 32}),
    "cohere": ("cohere", KEYS | {"logit_scale": 0.3}),
    "granite": ("granite", KEYS | {"logits_scaling": 4.0}),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a vocabulary of 61 count as large, and chunks have a few tokens."""
    monkeypatch.setattr(output_head, "LEAST_VOCABULARY", 32)
    monkeypatch.setattr(head_losses, "LEAST_ROWS", 7)
    monkeypatch.setattr(head_losses, "CHUNK_ON_CPU", 1)


def network_of(family, factor=6.0):
    kind, config = FAMILIES[family]
    network = causal_language_model(kind, SIZE | config, seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:  # far from the small start: caps and scales must show
                parameter.mul_(factor)
            elif float(parameter.abs().max()) == 0:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
    return network.eval()


def samples_of(masked=True):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (4, 12), generator=generator)
    if not masked:
        return {"input_ids": tokens}
    labels, mask = tokens.clone(), torch.ones_like(tokens)
    for row, length in enumerate((12, 7, 9, 4)):
        labels[row, : length // 2] = -100
        mask[row, length:] = 0
    labels[3] = -100  # a sample without a label
    return {"input_ids": tokens, "labels": labels, "attention_mask": mask}


def results(network, samples, call, weights=None):
    """Losses, and gradients by name."""
    network.zero_grad()
    losses = call(network, samples)
    (losses if weights is None else losses * weights).sum().backward()
    named = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    return losses.detach(), {k: None if g is None else g.clone() for k, g in named.items()}


def whole(monkeypatch, *arguments):
    """Do it from whole logits."""
    with monkeypatch.context() as patch:
        patch.setattr(output_head, "LEAST_VOCABULARY", 1 << 30)
        return results(*arguments)


def agree(mine, theirs, loss=1e-5, gradient=1e-4):
    assert torch.allclose(mine[0], theirs[0], rtol=0, atol=loss)
    assert mine[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        if expected is None:
            assert mine[1][name] is None
            continue
        gap = (mine[1][name] - expected).norm()
        assert gap <= gradient * expected.norm() + 1e-7, name


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_whole_logits(family, monkeypatch):
    network, samples = network_of(family), samples_of()
    assert output_head.output_head(network) is not None
    objective = CausalLanguageModeling()
    weights = torch.tensor([0.5, 2.0, 1.0, 0.25])
    for these in (None, weights):
        arguments = network, samples, objective, these
        theirs = whole(monkeypatch, *arguments)
        assert theirs[0][:3].min() > 0.5
        agree(results(*arguments), theirs)
    with torch.no_grad():
        assert torch.allclose(objective(network, samples), theirs[0], rtol=0, atol=1e-5)
