"""Prompts and responses from files: splits by prompt, what is dropped, and padded batches."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from row_files import write

from tandem_pl import MixtureModule
from tandem_pl.datamodules import InstructionMixtureDataModule
from tandem_pl.datamodules.chat.prompt_splits import split_by_prompt
from tandem_pl.datamodules.chat.samples import PadToLongest, SampleWriter, TokenizedSamples
from tandem_pl.datamodules.chat.templates import Rendered
from tandem_pl.datamodules.text.documents import DROPPED, SPLITS, Part, document_keys
from tandem_pl.errors import InputError
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling

OPTIONS = {"target_fraction": 0.2, "test_fraction": 0.1, "max_length": 64}


@pytest.fixture
def files(tmp_path):
    def rows(domain, count):
        return [
            {"prompt": f"{domain} {i}?", "response": "yes " * (i % 7 + 1)} for i in range(count)
        ]

    return {
        domain: write(tmp_path / f"{domain}.jsonl", rows(domain, count))
        for domain, count in (("sums", 40), ("poems", 20))
    }


def module(files, tmp_path, **options):
    return InstructionMixtureDataModule(
        files, cache_dir=str(tmp_path / "cache"), **OPTIONS | options
    )


def texts(data, split, domain):
    """Samples as (prompt, response) texts, the response being what has a loss."""
    found = []
    for sample in getattr(data, f"{split}_sets")[domain]:
        has_loss = sample["labels"] != -100
        assert torch.equal(sample["labels"][has_loss], sample["input_ids"][has_loss])
        ids = sample["input_ids"]
        both = [data.tokenizer.decode(ids[mask].tolist()) for mask in (~has_loss, has_loss)]
        found.append(tuple(both))
    return found


def everything(data):
    return {
        (split, domain): texts(data, split, domain) for split in SPLITS for domain in data.test_sets
    }


def test_every_sample_falls_in_one_split_with_its_prompt_and_response(files, tmp_path):
    data = module(files, tmp_path)
    data.setup("fit")
    found = everything(data)
    expected = {
        (row["prompt"] + "\n", row["response"])
        for path in files.values()
        for row in map(json.loads, Path(path).read_text().splitlines())
    }
    flat = [pair for pairs in found.values() for pair in pairs]
    assert len(flat) == len(set(flat)) == 60
    assert set(flat) == expected
    assert [len(found[split, "sums"]) for split in SPLITS] == [28, 8, 4]
    row = data.summary()[0]
    assert row["train_samples"] == 28
    assert row["duplicates_dropped"] == row["skipped"] == row["train_cut"] == 0
    responses = sum(len(response) + 1 for _, response in found["train", "sums"])
    assert row["train_response_tokens"] == responses


def test_a_batch_is_padded_and_padding_has_neither_label_nor_attention(files, tmp_path):
    data = module(files, tmp_path, batch_size=6)
    data.setup("fit")
    samples = next(iter(data.train_dataloader())).samples
    ids, labels, mask = (samples[key] for key in ("input_ids", "labels", "attention_mask"))
    lengths = mask.sum(dim=1)
    assert ids.shape == labels.shape == mask.shape
    assert ids.shape[0] == 6
    assert ids.shape[1] % 8 == 0
    assert 0 <= ids.shape[1] - lengths.max() < 8
    for row, length in enumerate(lengths.tolist()):
        assert mask[row, :length].all()
        assert ids[row, length - 1] == 256, "the end of the response"
        assert labels[row, length - 1] == 256
        assert (labels[row, length:] == -100).all()
    assert not hasattr(data.train_sets["sums"], "tokens_per_sample")


def test_micro_batches_and_layouts_change_no_update(files, tmp_path):
    """One training step on the same batch, split and laid out in three ways."""
    results = []
    for layout, micro_batch_size in (("padded", None), ("packed", None), ("bucketed", 5)):
        data = module(files, tmp_path, batch_size=16)
        size = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1}
        size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
        trained = MixtureModule(
            causal_language_model("qwen2", size),
            CausalLanguageModeling(layout=layout),
            lambda parameters: torch.optim.SGD(parameters, 0.5),
            micro_batch_size=micro_batch_size,
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(trained, datamodule=data)
        results.append(torch.cat([p.detach().flatten() for p in trained.network.parameters()]))
    start = causal_language_model("qwen2", size)
    moved = torch.cat([p.detach().flatten() for p in start.parameters()]) - results[0]
    assert moved.norm() > 0.1
    for other in results[1:]:
        assert (other - results[0]).norm() < 1e-5 * moved.norm() * 10


keys = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=40),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(keys, st.integers(0, 5))
def test_a_prompt_falls_in_one_split_and_a_sample_is_there_once(domains, seed):
    prompts = {
        Part(str(i)): document_keys([str(p) for p, _ in rows], seed)
        for i, rows in enumerate(domains)
    }
    samples = {
        Part(str(i)): document_keys([f"{p} {r}" for p, r in rows], seed)
        for i, rows in enumerate(domains)
    }
    new = set()
    own = []
    for rows in domains:
        mine = {p for p, _ in rows} - new
        own.append(len(mine))
        new |= mine
    if min(own) < 3:
        with pytest.raises(InputError, match=r"prompts? that no other has"):
            split_by_prompt(prompts, samples, 0.2, 0.1)
        return
    codes = split_by_prompt(prompts, samples, 0.2, 0.1)
    split_of, kept = {}, []
    for rows, row_codes in zip(domains, codes.values(), strict=True):
        assert len(rows) == len(row_codes)
        for (prompt, response), code in zip(rows, row_codes.tolist(), strict=True):
            if code != DROPPED:
                assert split_of.setdefault(prompt, code) == code
                kept.append((prompt, response))
    assert sorted(kept) == sorted({pair for rows in domains for pair in rows})
    assert set(split_of.values()) == {0, 1, 2}


def test_duplicates_are_counted_and_the_first_domain_keeps_them(files, tmp_path):
    with open(files["poems"], "a") as file:
        for prompt, response in (("sums 3?", "yes " * 4), ("sums 5?", "other"), ("poems 1?", "b")):
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    data = module(files, tmp_path)
    data.setup("fit")
    assert [row["duplicates_dropped"] for row in data.summary()] == [0, 1]
    homes = {}
    for (split, _), pairs in everything(data).items():
        for prompt, _ in pairs:
            homes.setdefault(prompt, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    flat = [pair for pairs in everything(data).values() for pair in pairs]
    assert flat.count(("sums 3?\n", "yes " * 4)) == 1
    assert ("sums 5?\n", "other") in flat


@pytest.mark.parametrize("too_long", ["cut", "drop"])
def test_long_samples_are_cut_or_dropped_and_counted(files, tmp_path, too_long):
    rows = [{"prompt": "p" * (10 + i % 2 * 50) + str(i), "response": "r" * 30} for i in range(60)]
    files = {"long": write(tmp_path / "long.jsonl", rows)}
    data = module(files, tmp_path, max_length=40, too_long=too_long)
    if too_long == "drop":
        with pytest.raises(InputError, match=r"'long' has no sample .*\(42 dropped as longer"):
            data.setup("fit")
        assert not list((tmp_path / "cache").glob("*")), "nothing half-built is left"
        return
    data.setup("fit")
    (row,) = data.summary()
    total = {
        name: sum(row[f"{split}_{name}"] for split in SPLITS)
        for name in ("samples", "cut", "dropped_empty", "dropped_long")
    }
    assert total == {"samples": 30, "cut": 30, "dropped_empty": 30, "dropped_long": 0}
    prompt, response = texts(data, "train", "long")[0]
    assert len(prompt) + len(response) == 40
    assert response == "r" * len(response)


def chats(count):
    return [
        {
            "messages": [
                {"role": "user", "content": f"chat {i}"},
                {"role": "assistant", "content": "first"},
                {"role": "user", "content": "more"},
                {"role": "assistant", "content": "second"},
            ]
        }
        for i in range(count)
    ]


def test_chats_from_json_lines(tmp_path):
    files = {"talk": write(tmp_path / "talk.jsonl", chats(12))}
    for turns, said in (("all", "firstsecond"), ("last", "second")):
        data = module(files, tmp_path, messages_column="messages", turns=turns)
        data.setup("fit")
        assert {response for _, response in texts(data, "train", "talk")} == {said}


def test_chats_from_a_saved_data_set_with_a_family_column(tmp_path):
    from datasets import Dataset

    rows = [{**row, "family": "ab"[i % 2]} for i, row in enumerate(chats(20))]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    data = InstructionMixtureDataModule(
        dataset=str(tmp_path / "saved"),
        domain_column="family",
        messages_column="messages",
        cache_dir=str(tmp_path / "cache"),
        **OPTIONS,
    )
    data.setup("fit")
    assert list(data.train_sets) == ["a", "b"]
    prompts = {text for domain in "ab" for text, _ in texts(data, "train", domain)}
    assert prompts <= {f"chat {i}\nmore\n" for i in range(20)}


def test_several_prompt_columns_are_joined(tmp_path):
    rows = [{"task": f"Add {i}.", "input": i % 2 * "1 2", "output": "3"} for i in range(12)]
    files = {"sums": write(tmp_path / "sums.jsonl", rows)}
    columns = {"prompt_column": ["task", "input"], "response_column": "output"}
    data = module(files, tmp_path, **columns)
    data.setup("fit")
    prompts = {prompt for pairs in everything(data).values() for prompt, _ in pairs}
    assert {"Add 2.\n", "Add 3.\n\n1 2\n"} <= prompts


BAD_ROWS = {
    "not json": "{oops",
    "no text": json.dumps({"prompt": "a", "response": 3}),
    "empty": json.dumps({"prompt": "a", "response": " "}),
}


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_a_row_that_cannot_be_used_stops_or_is_skipped(files, tmp_path, kind):
    lines = Path(files["sums"]).read_text().splitlines()
    lines.insert(2, BAD_ROWS[kind])
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"sums.jsonl, line 3.*corrupt"):
        module(files, tmp_path).setup("fit")
    assert not list((tmp_path / "cache").glob("*"))
    data = module(files, tmp_path, corrupt="skip")
    with pytest.warns(UserWarning, match=r"'sums': 1 unfit rows .*line 3"):
        data.setup("fit")
    assert [row["skipped"] for row in data.summary()] == [1, 0]
    assert sum(map(len, everything(data).values())) == 60


def test_a_chat_without_an_assistant_stops_or_is_skipped(tmp_path):
    rows = chats(12)
    rows[4]["messages"] = rows[4]["messages"][:1]
    files = {"talk": write(tmp_path / "talk.jsonl", rows)}
    with pytest.raises(InputError, match=r"talk.jsonl, line 5 has no turn of the role"):
        module(files, tmp_path, messages_column="messages").setup("fit")
    data = module(files, tmp_path, messages_column="messages", corrupt="skip")
    with pytest.warns(UserWarning, match="1 unfit rows"):
        data.setup("fit")
    assert sum(map(len, everything(data).values())) == 11


def test_sources_that_cannot_be_used(files, tmp_path):
    with pytest.raises(InputError, match="no column 'question'"):
        module(files, tmp_path, prompt_column="question").setup("fit")
    write(tmp_path / "sums.jsonl", [])
    with pytest.raises(InputError, match="'sums' has 0 prompts"):
        module(files, tmp_path).setup("fit")
    with pytest.raises(InputError, match="not neither"):
        InstructionMixtureDataModule()
    for key, value in (("max_length", 1), ("too_long", "wrap"), ("pad_to_multiple_of", 0)):
        with pytest.raises(InputError, match=f"^{key}={value!r} must be"):
            module(files, tmp_path, **{key: value})


def test_the_cache_is_named_by_all_that_decides_it(files, tmp_path):
    first = module(files, tmp_path)
    first.prepare_data()
    again = module(files, tmp_path, seed=3, batch_size=5)
    again.prepare_data()
    assert again.cache_folder == first.cache_folder
    folders = {first.cache_folder}
    changes = [{"max_length": 63}, {"prompt_template": "{prompt}: "}, {"split_seed": 1}]
    for options in [*changes, {"turns": "last"}, {"too_long": "drop"}]:
        other = module(files, tmp_path, **options)
        other.prepare_data()
        folders.add(other.cache_folder)
    assert len(folders) == 6


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=2, max_size=20),
        min_size=1,
        max_size=10,
    )
)
def test_samples_come_back_as_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("samples") / "a.arrow"
    with SampleWriter(path, 301, 20, "cut") as writer:
        for row in rows:
            ids, response = zip(*row, strict=True)
            writer.write(Rendered(np.array(ids), np.array(response)))
    kept = [row for row in rows if any(has_loss for _, has_loss in row[1:])]
    assert writer.counts["samples"] == len(kept)
    assert writer.counts["dropped_empty"] == len(rows) - len(kept)
    if not kept:
        return
    data = pickle.loads(pickle.dumps(TokenizedSamples(path)))  # noqa: S301
    assert len(data) == len(kept)
    for sample, row in zip(data, kept, strict=True):
        assert sample["input_ids"].tolist() == [token for token, _ in row]
        assert sample["labels"].tolist() == [token if y else -100 for token, y in row]
    batch = PadToLongest(300, 8, 20)([data[i] for i in range(len(kept))])
    assert batch["input_ids"].shape[1] <= 20


def test_padding_never_exceeds_the_longest_allowed():
    samples = [{"input_ids": torch.zeros(n, dtype=torch.long)} for n in (3, 19)]
    samples = [sample | {"labels": sample["input_ids"]} for sample in samples]
    assert PadToLongest(0, 8, 20)(samples)["labels"].shape == (2, 20)
    assert PadToLongest(0, 8, 192)(samples)["labels"].shape == (2, 24)
