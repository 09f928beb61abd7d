"""Losses from hidden states are those of whole logits, for the networks of transformers."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.device_mesh import init_device_mesh

from tandem_pl.networks import causal_language_model
from tandem_pl.networks.adapters import lora
from tandem_pl.objectives import CausalLanguageModeling, head_losses, output_head
from tandem_pl.training.sharding import shard

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


@pytest.mark.parametrize("layout", ["padded", "packed", "bucketed"])
def test_every_layout_takes_chunks(layout, monkeypatch):
    arguments = network_of("qwen2"), samples_of(), CausalLanguageModeling(layout=layout)
    agree(results(*arguments), whole(monkeypatch, *arguments))


def test_only_labelled_tokens_meet_the_head(monkeypatch):
    network, rows = network_of("llama"), []
    product = nn.functional.linear

    def counted(inputs, weight, bias=None):
        if len(weight) == VOCABULARY:
            rows.append(len(inputs))
        return product(inputs, weight, bias)

    objective, samples = CausalLanguageModeling(), samples_of()
    objective(network, samples)  # the first also checks the head
    monkeypatch.setattr(nn.functional, "linear", counted)
    losses = objective(network, samples)
    losses.sum().backward()  # equal weights: no chunk again
    assert sum(rows) == int(objective.token_counts(samples).sum())
    assert max(rows) <= 7
    assert float(losses[3].detach()) == 0.0


def test_losses_of_tokens(monkeypatch):
    weights = torch.linspace(0.1, 2.0, 44).view(4, 11)

    def weighted(network, samples):
        losses, labelled = CausalLanguageModeling().token_losses(network, samples)
        assert not losses[~labelled].any()
        return losses * weights

    arguments = network_of("phi"), samples_of(), weighted
    agree(results(*arguments), whole(monkeypatch, *arguments))


def test_a_batch_without_any_label_has_gradients_of_zero():
    network, samples = network_of("gpt2"), samples_of()
    samples["labels"] = torch.full_like(samples["labels"], -100)
    losses, gradients = results(network, samples, CausalLanguageModeling())
    assert losses.tolist() == [0.0] * 4
    assert not any(gradient.any() for gradient in gradients.values())


def test_a_graph_can_be_used_twice():
    network = network_of("mistral")
    loss = CausalLanguageModeling()(network, samples_of()).sum()
    weight = network.lm_head.weight
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.allclose(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("target", ["all-linear", ["lm_head", "q_proj"]])
def test_adapters_also_on_the_head(target, monkeypatch):
    network = lora(network_of("cohere"), target_modules=target)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert output_head.output_head(network) is not None
    arguments = network, samples_of(), CausalLanguageModeling()
    agree(results(*arguments), whole(monkeypatch, *arguments))


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_mixed_precision_multiplies_in_half_and_sums_in_float32(dtype, close, monkeypatch):
    def mixed(network, samples):
        with torch.autocast("cpu", dtype):
            return CausalLanguageModeling()(network, samples)

    arguments = network_of("gpt_neox", 3.0), samples_of(), mixed
    mine = results(*arguments)
    assert mine[0].dtype == torch.float32
    agree(mine, whole(monkeypatch, *arguments), loss=1e-5, gradient=close)


def test_float64_is_exact(monkeypatch):
    arguments = network_of("gemma2").double(), samples_of(), CausalLanguageModeling()
    agree(results(*arguments), whole(monkeypatch, *arguments), 1e-13, 1e-12)


class Bigrams(nn.Module):
    """A network that compiles fast."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lm_head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids):
        return self.lm_head(self.embedding(input_ids).tanh())


def test_twins_share_compiled_code_and_plain_calls_still_give_logits(monkeypatch):
    counter = CompileCounter()
    network, samples, objective = Bigrams(), samples_of(False), CausalLanguageModeling()
    twin = copy.deepcopy(network)
    expected = whole(monkeypatch, network, samples, objective)
    for one in (network, twin):
        one.compile(backend=counter, fullgraph=True)
        agree(results(one, samples, objective), expected)
    assert counter.frame_count == 1
    assert network(**samples).shape == (4, 12, VOCABULARY)
    agree(results(network, samples, objective), expected)
    assert counter.frame_count == 2


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_networks_compute_losses_while_their_head_is_gathered(mesh, monkeypatch):
    for family in ("qwen2", "gemma2"):  # tied; with a cap
        network = network_of(family)
        arguments = samples_of(), CausalLanguageModeling(), torch.tensor([0.5, 2.0, 1.0, 1.0])
        expected = whole(monkeypatch, network, *arguments)
        shard(network, mesh)
        losses, gradients = results(network, *arguments)
        whole_gradients = {name: value.full_tensor() for name, value in gradients.items()}
        agree((losses, whole_gradients), expected)
        assert output_head.output_head(network) is not None


class Shifted(nn.Module):
    """A network whose logits are not what its head gives."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def get_output_embeddings(self):
        return self.network.lm_head

    def forward(self, **inputs):
        return self.change(self.network, self.network(**inputs).logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda network, logits: logits + torch.linspace(0, 1, VOCABULARY),
        lambda network, logits: 30 * torch.tanh(logits / 30),
        lambda network, logits: logits[..., :-1],
        lambda network, logits: logits.log_softmax(-1),
        lambda network, logits: network.lm_head(network.lm_head.weight[:1]) + logits,
    ],
)
def test_other_networks_take_whole_logits_and_say_so_once(change, recwarn, monkeypatch):
    monkeypatch.setattr(output_head, "_WARNED", set())
    network = Shifted(network_of("llama"), change)
    samples = {"input_ids": samples_of()["input_ids"] % (VOCABULARY - 1)}
    found = CausalLanguageModeling()(network, samples)
    assert torch.equal(found, whole(monkeypatch, network, samples, CausalLanguageModeling())[0])
    said = [str(w.message) for w in recwarn if "logits are all in memory" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("Shifted's")


def test_a_head_that_somebody_watches_is_called():
    network, seen = network_of("olmo"), []
    hook = network.lm_head.register_forward_hook(lambda *call: seen.append(call[2].shape))
    CausalLanguageModeling()(network, samples_of())
    assert seen == [(4, 12, VOCABULARY)]
    hook.remove()
    CausalLanguageModeling()(network, samples_of())
    assert len(seen) == 1


def test_small_vocabularies_take_whole_logits(monkeypatch):
    monkeypatch.setattr(output_head, "LEAST_VOCABULARY", VOCABULARY + 1)
    assert output_head.output_head(network_of("llama")) is None
