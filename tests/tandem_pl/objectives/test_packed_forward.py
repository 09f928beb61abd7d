"""However samples are laid out, every sample has the loss it has alone."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tandem_pl.errors import InputError
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.objectives.packed_forward import buckets, check_keeps_apart, first_fit, pack

VOCABULARY = 37
CONFIGS = {
    "gpt_neox": {"intermediate_size": 32, "max_position_embeddings": 32},
    "llama": {"intermediate_size": 32, "max_position_embeddings": 32},
    "qwen2": {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 32},
    "gpt2": {"n_positions": 32},
}
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LENGTHS = [5, 23, 2, 9, 1, 14, 7, 23]


def network_of(family, attention="sdpa"):
    network = causal_language_model(family, SIZE | CONFIGS[family], seed=1)
    network.set_attn_implementation(attention)
    for parameter in network.parameters():  # far from the small start: leaks must show
        parameter.data.mul_(3.0)
    return network.eval()


def samples_of(lengths, width=None, seed=0):
    """Padded samples whose first third has no label; padding holds tokens that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    tokens = torch.randint(0, VOCABULARY, (len(lengths), width), generator=generator)
    labels, mask = tokens.clone(), torch.ones_like(tokens)
    for row, length in enumerate(lengths):
        labels[row, : length // 3] = -100
        labels[row, length:] = -100
        mask[row, length:] = 0
    return {"input_ids": tokens, "labels": labels, "attention_mask": mask}


def alone(network, samples):
    """The oracle: each sample by itself, from the definition."""
    losses = []
    for tokens, labels, mask in zip(*samples.values(), strict=True):
        length = int(mask.sum())
        logits = network(input_ids=tokens[None, :length]).logits[0].double()
        log_p = logits - logits.logsumexp(dim=1, keepdim=True)
        terms = [-log_p[t, labels[t + 1]] for t in range(length - 1) if int(labels[t + 1]) != -100]
        losses.append(torch.stack(terms).mean() if terms else logits.sum() * 0.0)
    return torch.stack(losses)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_every_layout_gives_the_losses_and_gradients_of_the_samples_alone(family, attention):
    network = network_of(family, attention)
    samples = samples_of(LENGTHS, width=24)
    weights = torch.linspace(0.5, 2.0, len(LENGTHS))
    expected = alone(network, samples)
    assert expected.detach().std() > 0.3
    (expected * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    for layout in ("padded", "packed", "bucketed"):
        network.zero_grad()
        losses = CausalLanguageModeling(layout=layout)(network, samples)
        assert losses.tolist() == pytest.approx(expected.tolist(), abs=1e-5), layout
        (losses * weights).sum().backward()
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            gap = (parameter.grad - gradient).norm()
            assert gap <= 1e-5 * (1 + gradient.norm()), layout


@pytest.mark.parametrize("layout", ["padded", "packed", "bucketed"])
def test_micro_batches_and_more_padding_change_no_loss(layout):
    network, objective = network_of("qwen2"), CausalLanguageModeling(layout=layout)
    samples = samples_of(LENGTHS)
    whole = objective(network, samples)
    parts = [
        objective(network, {key: value[i : i + 3] for key, value in samples.items()})
        for i in range(0, len(LENGTHS), 3)
    ]
    assert torch.cat(parts).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    wider = {
        key: nn.functional.pad(value, (0, 8), value=-100 if key == "labels" else 0)
        for key, value in samples.items()
    }
    assert objective(network, wider).tolist() == pytest.approx(whole.tolist(), abs=1e-5)


@pytest.mark.parametrize("layout", ["padded", "packed", "bucketed"])
def test_without_labels_all_tokens_but_padding_have_a_loss(layout):
    network, samples = network_of("llama"), samples_of([4, 9, 6])
    lengths = samples["attention_mask"].sum(dim=1)
    samples["labels"] = samples["input_ids"]
    expected = alone(network, samples)
    del samples["labels"]
    assert lengths.tolist() == [4, 9, 6]
    losses = CausalLanguageModeling(layout=layout)(network, samples)
    assert losses.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_blocks_without_a_mask_go_straight_to_the_network():
    calls = []

    def network(**inputs):
        calls.append(inputs)
        return SimpleNamespace(logits=torch.zeros(2, 5, 7))

    tokens = torch.arange(10).reshape(2, 5) % 7
    for layout in ("padded", "packed", "bucketed"):
        losses = CausalLanguageModeling(layout=layout)(network, {"input_ids": tokens})
        assert losses.tolist() == pytest.approx([math.log(7)] * 2)
    assert [set(call) for call in calls] == [{"input_ids"}] * 3
    assert all(call["input_ids"] is tokens for call in calls)


@pytest.mark.parametrize("layout", ["packed", "bucketed"])
def test_less_is_computed(layout):
    """The point of a layout: fewer tokens go through the network."""
    network, samples = network_of("qwen2"), samples_of(LENGTHS)
    sizes = []
    hook = network.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    objective = CausalLanguageModeling(layout=layout)
    objective(network, samples)  # the first also probes
    sizes.clear()
    objective(network, samples)
    hook.remove()
    assert sum(LENGTHS) <= sum(sizes) <= 1.3 * sum(LENGTHS) < 0.7 * samples["input_ids"].numel()


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(0, 5))
def test_packing_holds_every_token_once_and_in_order(lengths, extra):
    width = max(lengths) + extra
    packing = pack(lengths, width)
    assert packing.taken.shape[1] <= max(lengths)
    tokens = torch.arange(len(lengths) * width).reshape(len(lengths), width)
    rows = tokens.flatten()[packing.taken]
    real = [tokens[i, j].item() for i, length in enumerate(lengths) for j in range(length)]
    assert sorted(rows[packing.filled].tolist()) == real
    back = rows.flatten()[packing.places]
    for i, length in enumerate(lengths):
        assert torch.equal(back[i, :length], tokens[i, :length])
    # A new sample, or the empty end, begins just where the position is 0.
    own = rows % width
    assert torch.equal(packing.positions[packing.filled], own[packing.filled])
    starts = (packing.positions == 0).sum()
    empty_ends = (~packing.filled).any(dim=1).sum()
    assert starts == len(lengths) + empty_ends


@given(lengths)
def test_no_two_rows_would_fit_in_one(lengths):
    rows = first_fit(lengths, max(lengths))
    fills = sorted(sum(lengths[i] for i in row) for row in rows)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert fills[-1] <= max(lengths)
    assert len(fills) == 1 or fills[0] + fills[1] > max(lengths)


@given(lengths)
def test_buckets_are_at_least_half_full(lengths):
    groups = buckets(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = lengths[group[0]]
        assert all(longest / 2 < lengths[i] <= longest for i in group)
    assert len(groups) <= math.log2(max(lengths)) + 1


class Running(nn.Module):
    """Adds up all it has seen in a row, whatever the positions say."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        return self.embedding(input_ids).cumsum(dim=1)


def test_a_network_that_mixes_samples_is_refused_and_can_be_bucketed():
    network = Running().train()
    network.embedding.eval()
    samples = samples_of([3, 2, 1])
    with pytest.raises(InputError, match=r'layout="packed" would let .* Running .*"bucketed"'):
        CausalLanguageModeling(layout="packed")(network, samples)
    assert network.training
    assert not network.embedding.training
    losses = CausalLanguageModeling(layout="bucketed")(network, samples)
    assert torch.isfinite(losses).all()


def test_a_transformer_that_keeps_a_cache_is_refused():
    """With a cache, transformers takes no notice of positions that start again."""
    network = network_of("qwen2")
    check_keeps_apart(copy.deepcopy(network), torch.device("cpu"))
    network.config.use_cache = True
    with pytest.raises(InputError, match="use_cache"):
        check_keeps_apart(network, torch.device("cpu"))


def test_a_network_without_position_ids_is_refused():
    class Blind(Running):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids)

    with pytest.raises(InputError, match="takes position_ids, and Blind does not"):
        CausalLanguageModeling(layout="packed")(Blind(), samples_of([3, 2]))


def test_what_cannot_be_laid_out_is_refused():
    with pytest.raises(InputError, match=r"layout='wide' must be"):
        CausalLanguageModeling(layout="wide")
    network, samples = network_of("llama"), samples_of([3, 2])
    left = samples | {"attention_mask": samples["attention_mask"].flip(1)}
    for layout in ("packed", "bucketed"):
        with pytest.raises(InputError, match="padded at their end"):
            CausalLanguageModeling(layout=layout)(network, left)
    extra = samples | {"token_type_ids": samples["input_ids"]}
    with pytest.raises(InputError, match=r"cannot pack 'token_type_ids'"):
        CausalLanguageModeling(layout="packed")(network, extra)
