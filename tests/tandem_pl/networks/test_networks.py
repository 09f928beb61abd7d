"""Networks by name and from folders; what is refused."""

import pytest
import torch
from torch import nn

from tandem_pl import InputError
from tandem_pl.networks import causal_language_model
from tandem_pl.networks.checks import check_vocabulary, vocabulary_size

TINY = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
QWEN = TINY | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}


def ids():
    return torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(network):
    with torch.no_grad():
        return network.eval()(input_ids=ids()).logits


@pytest.fixture
def folder(tmp_path):
    network = causal_language_model("qwen2", QWEN, seed=3)
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_seed_alone_decides_the_weights_and_no_global_state_moves():
    before = torch.get_rng_state()
    one, same = (causal_language_model("qwen2", QWEN, seed=3) for _ in range(2))
    other = causal_language_model("qwen2", QWEN, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))


def test_a_folder_gives_the_same_logits_with_its_ties(folder):
    network = causal_language_model(pretrained=str(folder))
    assert torch.equal(logits(network), logits(causal_language_model("qwen2", QWEN, seed=3)))
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert network.dtype == torch.float32
    assert not network.config.use_cache


def test_a_half_precision_folder_trains_in_float32_unless_asked(folder):
    half = causal_language_model(pretrained=str(folder), dtype="bfloat16")
    half.save_pretrained(folder)
    assert causal_language_model(pretrained=str(folder)).dtype == torch.float32
    assert causal_language_model(pretrained=str(folder), dtype="auto").dtype == torch.bfloat16


def test_attention_and_changed_fields(folder):
    network = causal_language_model(
        pretrained=str(folder), attention="eager", config={"attention_dropout": 0.3}
    )
    assert network.config._attn_implementation == "eager"
    assert network.config.attention_dropout == 0.3


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients = []
    for checkpointing in (False, True):
        network = causal_language_model(
            pretrained=str(folder), gradient_checkpointing=checkpointing
        )
        assert network.is_gradient_checkpointing == checkpointing
        network(input_ids=ids()).logits.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*gradients)


def test_pickled_weights_need_to_be_allowed(folder):
    network = causal_language_model(pretrained=str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="allow_pickle: true"):
        causal_language_model(pretrained=str(folder))
    loaded = causal_language_model(pretrained=str(folder), allow_pickle=True)
    assert torch.equal(logits(loaded), logits(network))


def test_code_of_a_folder_does_not_run_unasked(folder):
    import json

    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="trust_remote_code"):
        causal_language_model(pretrained=str(folder))
    assert not (folder / "ran").exists()


def test_missing_weights_are_not_made_up(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for 1 .*'model.norm.weight'"):
        causal_language_model(pretrained=str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "gpt_neoxx"}, "did you mean 'gpt_neox'"),
        ({"config": {"hiden_size": 3}}, "did you mean 'hidden_size'"),
        ({"config": TINY | {"hidden_size": 30, "num_attention_heads": 4}}, "not divisible"),
        ({"config": {"vocab_size": 61}}, "gives no hidden_size, and gpt_neox's default, 6144"),
        ({"model_type": "gpt2", "config": {"n_embd": 16}}, "gives no n_layer"),
        ({"config": TINY | {"num_attention_heads": 4}, "attention": "nope"}, "nope"),
        ({"dtype": "auto"}, "give pretrained, or a dtype"),
        ({"pretrained": "nowhere/at/all"}, "no config.json"),
    ],
)
def test_bad_settings_are_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as caught:
        causal_language_model(**options)
    assert "\n" not in str(caught.value)


GPT2 = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
NULL = "leave it out, or set config: null to take the folder's own configuration."


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("qwen2", QWEN | {"hidden_size": 64}, "config.hidden_size=64 does not fit {}has 16: {}"),
        ("qwen2", {"vocab_size": 257}, "config.vocab_size=257 does not fit {}has 61: {}"),
        ("qwen2", {"num_hidden_layers": 1}, "config.num_hidden_layers=1 does not fit {}has 2: {}"),
        (
            "qwen2",  # no parameter has another shape
            {"num_attention_heads": 8},
            "config.num_attention_heads=8 does not fit {}has 4: {}",
        ),
        (
            "qwen2",
            {"tie_word_embeddings": False},
            "config.tie_word_embeddings=False does not fit {}has True: {}",
        ),
        ("qwen2", {"hidden_act": "nope"}, "config.hidden_act='nope' does not fit {}has 'silu': {}"),
        (
            "qwen2",
            {"attention_dropout": "x"},
            "config.attention_dropout='x' does not fit {}has 0.0: {}",
        ),
        ("gpt2", QWEN, "config.intermediate_size=32 is unknown to {1}, of a gpt2 network: {2}"),
        (
            "gpt2",
            {"n_embed": 16},
            "config.n_embed=16 is unknown to {1}, of a gpt2 network: did you mean 'n_embd'? {2}",
        ),
        ("gpt2", {"hidden_size": 32}, "config.hidden_size=32 does not fit {}has 16: {}"),
        ("gpt2", {"n_head": 4}, "config.n_head=4 does not fit {}has 2: {}"),
    ],
)
def test_fields_that_do_not_fit_a_folder_are_refused_by_name(tmp_path, kind, config, message):
    causal_language_model(kind, {"qwen2": QWEN, "gpt2": GPT2}[kind]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    start = f"the pretrained network, whose {path} "
    text = message.format(start, path, NULL) if "{1}" in message else message.format(start, NULL)
    with pytest.raises(InputError) as refusal:
        causal_language_model(pretrained=str(tmp_path), config=config)
    assert str(refusal.value) == text


def test_fields_that_agree_or_keep_the_shape_are_taken(folder):
    changed = {"attention_dropout": 0.3, "max_position_embeddings": 77}
    network = causal_language_model(pretrained=str(folder), config=QWEN | changed)
    assert network.config.attention_dropout == 0.3
    assert network.config.max_position_embeddings == 77
    assert torch.equal(logits(network), logits(causal_language_model("qwen2", QWEN, seed=3)))


def test_the_vocabulary_must_fit():
    network = causal_language_model("qwen2", QWEN)
    assert vocabulary_size(network) == 61
    assert vocabulary_size(nn.Linear(2, 2)) is None
    check_vocabulary(network, 61)
    check_vocabulary(nn.Linear(2, 2), 99)
    with pytest.raises(InputError, match=r"62 tokens and the network embeds 61: .*vocab_size"):
        check_vocabulary(network, 62)


def test_a_vocabulary_far_beyond_that_of_the_data_is_said(recwarn):
    check_vocabulary(nn.Embedding(9, 4), 257)  # which does not say its size
    for size, tokens in ((4300, 257), (50_304, 20_000)):
        check_vocabulary(causal_language_model("qwen2", QWEN | {"vocab_size": size}), tokens)
    assert not recwarn
    check_vocabulary(causal_language_model("qwen2", QWEN | {"vocab_size": 4400}), 257)
    (said,) = (str(warning.message) for warning in recwarn)
    assert "a vocabulary of 4400 tokens and the data one of 257" in said
    assert "model.network.config.vocab_size to 257" in said
