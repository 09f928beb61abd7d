"""`tandem export RUN --network FOLDER`: the same network in transformers, peft and safetensors."""

import json
import math
import os
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import tandem_pl.export
from tandem_pl import InputError, TandemModule
from tandem_pl.cli import main
from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.export.checkpoint import build_module, load_network
from tandem_pl.export.network import adapter_notes, export_network
from tandem_pl.networks import causal_language_model

WORDS = [*"abcdefgh", "<|endoftext|>"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NETWORKS = {
    "gpt_neox": {"vocab_size": 257, "intermediate_size": 32, "max_position_embeddings": 16},
    "llama": {"vocab_size": 9, "intermediate_size": 32, "tie_word_embeddings": True},
}


def write_text(folder):
    draw = random.Random(0)
    for domain in ("one", "two"):
        (folder / domain).mkdir(parents=True)
        for number in range(8):
            text = " ".join(draw.choices(WORDS[:-1], k=200))
            (folder / domain / f"{number}.txt").write_text(f"{number} {text}")


def write_tokenizer(folder):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=WORDS[-1])
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, tmp_path_factory):
    """The folder of a real run of `tandem fit`, and its kind of network."""
    place = tmp_path_factory.mktemp(request.param)
    write_text(place / "text")
    write_tokenizer(place / "tokens")
    config = {
        "trainer": {
            "max_steps": 9,
            "accelerator": "cpu",
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(place), "name": "runs"},
            },
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "tandem_pl.callbacks.TandemReweighting",
                    "init_args": {"free_steps": 2, "probe_steps": 1, "measure_batches": 1},
                },
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_epochs": 1, "save_last": True},
                },
            ],
        },
        "model": {
            "class_path": "tandem_pl.TandemModule",
            "init_args": {
                "network": {
                    "class_path": "tandem_pl.networks.causal_language_model",
                    "init_args": {
                        "model_type": request.param,
                        "config": SIZES | NETWORKS[request.param],
                    },
                },
                "objective": "tandem_pl.objectives.CausalLanguageModeling",
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            },
        },
        "data": {
            "class_path": "tandem_pl.datamodules.TextMixtureDataModule",
            "init_args": {
                "domains": {name: str(place / "text" / name) for name in ("one", "two")},
                "tokenizer": "bytes" if request.param == "gpt_neox" else str(place / "tokens"),
                "block_size": 16,
                "batch_size": 4,
                "cache_dir": str(place / "cache"),
            },
        },
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["fit", "--config", str(place / "config.yaml")]) == 0
    return place / "runs" / "version_0", request.param


def reference_logits(run, kind, prefix="network."):
    """Of a network that is built by hand and given the checkpoint's weights."""
    network = causal_language_model(kind, SIZES | NETWORKS[kind], seed=99).eval()
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    network.load_state_dict(mine)
    return logits(network)


def logits(network):
    tokens = torch.arange(18).reshape(2, 9) % 9
    with torch.no_grad():
        return network(input_ids=tokens).logits


def test_transformers_gives_identical_logits(trained, tmp_path, capsys):
    run, kind = trained
    assert main(["export", str(run), "--network", str(tmp_path / "net")]) == 0
    said = capsys.readouterr()
    assert f"written to {tmp_path / 'net'}" in said.out
    assert "Writing" not in said.err
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "net").eval()
    assert torch.equal(logits(network), reference_logits(run, kind))
    untrained = causal_language_model(kind, SIZES | NETWORKS[kind])
    assert not torch.equal(logits(network), logits(untrained.eval()))
    assert network.config.use_cache is True
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    assert tied == (kind == "llama")
    tokens = network.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    assert tokens.shape[1] > 3
    assert {path.stat().st_mode & 0o444 for path in (tmp_path / "net").iterdir()} == {0o444}
    if kind == "llama":
        assert AutoTokenizer.from_pretrained(tmp_path / "net").eos_token_id == 8
        assert network.generation_config.eos_token_id == 8
        assert "with the tokenizer of" in said.out
    else:
        assert network.generation_config.eos_token_id == 256
        assert "with a tokenizer of bytes, in which 256 ends a text" in said.out
        assert AutoTokenizer.from_pretrained(tmp_path / "net").eos_token_id == 256


def test_the_reference_is_another_network(trained, tmp_path):
    run, kind = trained
    arguments = ["--network", str(tmp_path / "net"), "--which", "reference"]
    assert main(["export", str(run), *arguments, "--checkpoint", "last.ckpt"]) == 0
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "net").eval()
    assert torch.equal(logits(network), reference_logits(run, kind, "reference."))
    assert not torch.equal(logits(network), reference_logits(run, kind))


def test_a_folder_is_replaced_only_when_asked(trained, tmp_path, capsys):
    run, _ = trained
    command = ["export", str(run), "--network", str(tmp_path / "net")]
    (tmp_path / "net").mkdir()
    assert main(command) == 0  # an empty folder is as good as none
    (tmp_path / "net" / "old").touch()
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "net" / "old").exists()
    assert main([*command, "--overwrite"]) == 0
    assert not (tmp_path / "net" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]  # nothing half-written
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    command[-1] = str(tmp_path / "mine")
    assert main([*command, "--overwrite"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("width", "is of another network than the run's config.yaml"),
        ("no checkpoint", "which has none"),
        ("broken", "is not a checkpoint of a run"),
        ("no proxy", "has no reference"),
        ("no model", "the network of"),
        ("sharded", "is a folder of a sharded checkpoint"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(change, message, trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    checkpoint = run / "checkpoints" / "last.ckpt"
    which = "reference" if change == "no proxy" else "proxy"
    if change in ("width", "no model"):
        config = yaml.safe_load((run / "config.yaml").read_text())
        if change == "width":
            config["model"]["init_args"]["network"]["init_args"]["config"]["hidden_size"] = 32
        else:
            del config["model"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    elif change == "no proxy":
        state = torch.load(checkpoint, weights_only=True)
        pairs = state["state_dict"].items()
        torch.save({"state_dict": {k: v for k, v in pairs if "reference" not in k}}, checkpoint)
    else:
        shutil.rmtree(run / "checkpoints")
        if change == "broken":
            checkpoint.parent.mkdir()
            checkpoint.write_bytes(b"PK\x03\x04 half a file")
        elif change == "sharded":
            checkpoint.mkdir(parents=True)
    assert main(["export", str(run), "--network", str(tmp_path / "n"), "--which", which]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.tensor(7))

    def forward(self, rows):
        return self.second(self.first(rows))


def test_any_other_network_is_safetensors(tmp_path):
    from safetensors.torch import load_model

    module = TandemModule(Tied(), nn.Identity(), torch.optim.SGD)
    files = export_network(module, tmp_path / "net")
    assert [path.name for path in files] == ["model.safetensors"]
    again = Tied()
    load_model(again, str(files[0]))
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(rows), module.network(rows))


def test_tied_parameters_are_averaged_too(tmp_path):
    """The average has them once, the network's state twice."""
    module = TandemModule(Tied(), lambda n, s: s, lambda p: torch.optim.SGD(p, 0.1))
    average = {**module.network.state_dict(), "first.weight": torch.full((3, 3), 7.0)}
    del average["second.weight"]
    callbacks = {"MovingAverage{}": {"updates": 1, "average": average}}
    state = {"state_dict": module.state_dict(), "callbacks": callbacks}
    torch.save(state, tmp_path / "a.ckpt")
    network = load_network(module, tmp_path / "a.ckpt", "average")
    assert network.second.weight is network.first.weight
    assert torch.equal(network.second.weight, average["first.weight"])
    average["other.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "b.ckpt")
    with pytest.raises(InputError, match=r"other\.weight"):
        load_network(module, tmp_path / "b.ckpt", "average")


def test_a_network_keeps_the_dtype_that_it_was_trained_in(tmp_path):
    module = TandemModule(nn.Linear(3, 1).bfloat16(), nn.Identity(), torch.optim.SGD)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    fresh = TandemModule(nn.Linear(3, 1), nn.Identity(), torch.optim.SGD)
    network = load_network(fresh, tmp_path / "a.ckpt")
    assert network.weight.dtype == torch.bfloat16
    assert torch.equal(network.weight, module.network.weight)


def test_adapters_are_saved_by_their_own_library(tmp_path):
    peft = pytest.importorskip("peft")
    base = causal_language_model("llama", SIZES | NETWORKS["llama"])
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    files = export_network(adapted, tmp_path / "net")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in files}
    plain = causal_language_model("llama", SIZES | NETWORKS["llama"])
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "net").eval()
    assert torch.equal(logits(again), logits(adapted))
    assert adapted.config.use_cache is False  # as it was
    assert adapter_notes(files)[0].startswith("adapters alone, of a backbone that is in no folder")
    adapted.peft_config["default"].base_model_name_or_path = "models/mine"
    files = export_network(adapted, tmp_path / "net", overwrite=True)
    assert "puts them on 'models/mine'" in adapter_notes(files)[0]
    assert adapter_notes(export_network(nn.Linear(2, 1), tmp_path / "plain")) == []


def test_a_failure_leaves_the_old_folder(tmp_path, monkeypatch):
    export_network(nn.Linear(2, 1), tmp_path / "net")
    before = (tmp_path / "net" / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        export_network(nn.Linear(2, 1), tmp_path / "net", overwrite=True)
    assert (tmp_path / "net" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    export_network(nn.Linear(2, 1), tmp_path / "net")
    before = (tmp_path / "net" / "model.safetensors").read_bytes()
    replace, calls = os.replace, []

    def second_fails(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise OSError("no")
        replace(*paths)

    monkeypatch.setattr("os.replace", second_fails)
    with pytest.raises(OSError, match="no"):
        export_network(nn.Linear(2, 1), tmp_path / "net", overwrite=True)
    assert (tmp_path / "net" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_module_without_a_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="Identity has no network"):
        load_network(nn.Identity(), tmp_path / "a.ckpt")


# ---- downstream tasks ----

TEXTS = {"gpt_neox": ["3 a b h c é", "漢 <|endoftext|>"], "llama": ["a b h c", "d d"]}
LM_EVAL_YAML = re.compile(r"```yaml\n(task: held_out\n.*?)```", re.DOTALL)


def log_likelihood(network, tokenizer, text):
    """Return the sum of log p(token | all before) after the token that ends texts, in float64."""
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text).input_ids]])
    with torch.no_grad():
        table = network(input_ids=ids).logits.double().log_softmax(-1)
    return float(table[0, :-1].gather(1, ids[0, 1:, None]).sum())


def test_log_likelihoods_of_the_folder_are_the_losses_of_our_module(trained, tmp_path, capsys):
    run, kind = trained
    assert main(["export", str(run), "--network", str(tmp_path / "net")]) == 0
    if kind == "gpt_neox":
        assert "with a tokenizer of bytes, in which 256 ends a text" in capsys.readouterr().out
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "net").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "net")
    ours = load_tokenizer("bytes" if kind == "gpt_neox" else str(run.parents[1] / "tokens"))
    module = build_module(yaml.safe_load((run / "config.yaml").read_text()), "config.yaml")
    trained_network = load_network(module, run / "checkpoints" / "last.ckpt", "proxy").eval()
    for text in TEXTS[kind]:
        [ids] = ours.encode_batch([text])
        assert tokenizer(text).input_ids == ids.tolist()
        tokens = torch.tensor([[ours.eos_token_id, *ids.tolist()]])
        with torch.no_grad():
            [loss] = module.objective(trained_network, {"input_ids": tokens}).tolist()
        found = log_likelihood(network, tokenizer, text)
        assert found == pytest.approx(-loss * len(ids), rel=1e-5)


def test_lm_eval_reads_the_folder_without_a_network(trained, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    run, kind = trained
    page = Path(tandem_pl.export.__path__[0], "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Path("tasks").mkdir()
    [task] = LM_EVAL_YAML.findall(page)
    Path("tasks", "held_out.yaml").write_text(task)
    texts = [text for text in TEXTS[kind] if "<|" not in text]
    Path("held_out.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    assert main(["export", str(run), "--network", "exported"]) == 0
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args="pretrained=exported,dtype=float32",
        tasks=["held_out"],
        task_manager=lm_eval.tasks.TaskManager(include_path="tasks"),
        device="cpu",
        batch_size=1,
    )
    network = AutoModelForCausalLM.from_pretrained("exported").eval()
    tokenizer = AutoTokenizer.from_pretrained("exported")
    total = sum(log_likelihood(network, tokenizer, text) for text in texts)
    expected = -total / sum(len(text.encode()) for text in texts) / math.log(2)
    result = found["results"]["held_out"]["bits_per_byte,none"]
    assert result == pytest.approx(expected, rel=1e-4)
