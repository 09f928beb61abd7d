"""What a run says after its last step: losses, the mixture, a sample of text."""

import itertools

import numpy as np
import pytest
import torch
from helpers import parameters_of, quiet_trainer
from toy import toy_data, toy_module
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tandem_pl import Mixture, MixtureModule
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.cli.run_end import losses_table, mixture_lines, sample_line
from tandem_pl.cli.run_summary import RunSummary, samples_of_a_domain
from tandem_pl.cli.text_sample import draw_tokens
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.report.run import Run
from tandem_pl.run_files import Signal


def learned_run(tmp_path, updates, deltas=(0.0, 0.0, 0.0), method="tandem"):
    """A run of three domains with still weights, whose hyper-gradients go up and down by 0.01."""
    weights = np.tile([0.5, 0.25, 0.25], (updates + 1, 1))
    noise = np.resize([0.01, -0.01], updates)[:, None, None] * np.array([1.0, -2.0, 1.0])
    signal = Signal("hyper_gradient", ("delta",), range(1, updates + 1), noise + np.array(deltas))
    about = {"method": method, "episodes": updates}
    mixture = Mixture.from_array(("a", "b", "c"), weights[-1], about=about)
    return Run(tmp_path, mixture, list(range(updates + 1)), weights, signal)


def test_losses_and_perplexities_of_tokens_have_equal_digits():
    first, last = np.log([200.0, 100.0]), np.log([10.0, 4.0])
    assert losses_table(["web", "code"], (0, 300), (first, last), True).splitlines() == [
        "target  loss at step 0  at step 300  perplexity at step 0  at step 300",
        "web             5.2983       2.3026               200.000       10.000",
        "code            4.6052       1.3863               100.000        4.000",
        "mean            4.9517       1.8444               150.000        7.000",
    ]


def test_images_have_no_perplexity_and_many_domains_a_line():
    names, losses = [f"d{m}" for m in range(30)], np.arange(30.0)
    lines = losses_table(names, (5, 9), (losses, losses), False).splitlines()
    assert "perplexity" not in lines[0]
    assert len(lines) == 22
    assert lines[-1].split() == ["...", "10", "more", "14.5000", "14.5000"]


def test_a_settled_run_with_two_significant_moves(tmp_path):
    lines = mixture_lines(learned_run(tmp_path, 60, (-0.1, 0.1, 0.0)))
    assert lines == [
        "Settled: the means of the third and the fourth quarter differ by 0.0 % of the data, and "
        "the weights fluctuate by 0.0 % within a quarter.",
        "Significant (hyper-gradients, 95 % for all domains together): the moves of 2 of 3 "
        "weights, a, b.",
        f"Keep the network, which is trained: tandem export {tmp_path} --network exported",
        f"Or train another at the average: tandem init train --run {tmp_path}",
        f"See why the weights moved: tandem report {tmp_path}",
    ]


def test_a_mixture_that_is_not_significant_is_said_to_be(tmp_path):
    assert mixture_lines(learned_run(tmp_path, 60))[1] == (
        "Not significant: this run alone does not rule out chance for any weight "
        "(hyper-gradients, 95 % for all domains together); runs of other seeds, a longer one or "
        "more measured samples may."
    )


def test_a_short_run_says_so_and_a_run_without_updates_no_more(tmp_path):
    lines = mixture_lines(learned_run(tmp_path, 4))
    assert lines[0] == (
        "Too short to judge: the run has 4 updates; its average is a snapshot, and a longer run is "
        "needed."
    )
    assert len(lines) == 2  # no advice to train with it
    assert len(mixture_lines(learned_run(tmp_path, 0))) == 1
    assert "the run has 1 update;" in mixture_lines(learned_run(tmp_path, 1))[0]


def test_a_run_too_short_to_judge_claims_no_significance(tmp_path):
    lines = mixture_lines(learned_run(tmp_path, 10, (-0.1, 0.1, 0.0)))
    assert lines[0].startswith("Too short to judge: the run has 10 updates;")
    assert not any("ignificant" in line for line in lines)


def test_given_weights_are_not_judged(tmp_path):
    assert mixture_lines(learned_run(tmp_path, 40, method="fixed")) == []


def messages(tmp_path, caplog, method, module, **options):
    """Fit with a summary; return what was said."""
    trainer = quiet_trainer(tmp_path, callbacks=[method, RunSummary()], **options)
    with caplog.at_level("INFO"):
        trainer.fit(module, datamodule=toy_data())
    return "\n".join(caplog.messages)


def test_a_run_with_given_weights_ends_with_losses_alone(tmp_path, caplog):
    said = messages(tmp_path, caplog, FixedMixture(), toy_module(), max_steps=60)
    end = said.split("max_steps=60` reached.")[1].splitlines()
    assert end[1:3] == ["", f"written to {tmp_path}/mixture.yaml"]
    header, row, mean, samples = end[4:]
    assert header == "target  loss at step 0  at step 60"
    name, first, last = row.split()
    assert name == "t"
    assert 0.4 < float(last) < float(first) < 1.0
    assert mean.split() == ["mean", first, last]
    assert samples == "(means of at most 14 samples of each target domain)"


def test_a_run_that_learned_ends_with_the_table_and_the_use(tmp_path, caplog):
    module = toy_module("TandemModule")
    said = messages(tmp_path, caplog, TandemReweighting(3, 2, 4), module, max_steps=10)
    assert "learning the weights of 3 domains by tandem: 10 steps of 12 samples; " in said
    end = said.split("max_steps=10` reached.")[1].splitlines()
    assert [line.split()[0] for line in end[2:6]] == ["domain", "twin", "other", "noise"]
    assert end[6] == f"written to {tmp_path}/mixture.yaml"
    assert [line.split(" ")[0] for line in end[8:11]] == ["target", "t", "mean"]
    assert end[12].startswith("Too short to judge: the run has 2 updates;")
    assert end[13] == f"See why the weights moved: tandem report {tmp_path}"


@pytest.mark.parametrize("name", ["MixtureModule", "TandemModule"])
def test_the_summary_changes_no_bit_of_training(tmp_path, name):
    ends = []
    for callbacks in ([], [RunSummary()]):
        torch.manual_seed(3)
        module = toy_module(name)
        method = FixedMixture() if name == "MixtureModule" else TandemReweighting(3, 2, 4)
        trainer = quiet_trainer(tmp_path, callbacks=[method, *callbacks], max_steps=11)
        trainer.fit(module, datamodule=toy_data())
        ends.append((parameters_of(module), torch.get_rng_state(), method.trajectory))
    for before, after in itertools.pairwise(ends):
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
        assert np.array_equal(before[2], after[2])


@pytest.mark.parametrize(("steps", "expected"), [(3000, 64), (300, 24), (20, 8), (None, 64)])
def test_short_runs_evaluate_few_samples(steps, expected):
    data = toy_data(batch_size=16, target=False)
    data.target_sets = {name: [0] * 500 for name in "abcd"}
    assert samples_of_a_domain(data, steps) == expected
    data.target_sets = {number: [0] for number in range(5000)}
    assert samples_of_a_domain(data, steps) == 1


def small_language_model():
    config = GPTNeoXConfig(
        vocab_size=257,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout=0.5,
    )
    with torch.random.fork_rng():
        return GPTNeoXForCausalLM(config).train()


def test_text_is_drawn_with_a_generator_of_its_own():
    network, before = small_language_model(), torch.get_rng_state()
    given = torch.arange(97, 102)
    tokens = draw_tokens(network, given, 30)
    assert tokens[:5] == given.tolist()
    assert len(tokens) == 30
    assert len(set(tokens[5:])) > 5  # not the likeliest again and again
    assert draw_tokens(network, given, 30) == tokens
    assert draw_tokens(network, given, 30, seed=1) != tokens
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


class Bytes:
    """Token ids of 32 bytes."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"input_ids": torch.full((32,), 97 + index % 7)}


@pytest.mark.parametrize("broken", [False, True])
def test_a_language_model_ends_with_a_sample_of_text(tmp_path, caplog, broken):
    from tandem_pl.datamodules import MixtureDataModule
    from tandem_pl.datamodules.text.tokenization import ByteTokenizer

    data = MixtureDataModule({"a": Bytes()}, {"a": Bytes()}, batch_size=4)
    data.tokenizer = ByteTokenizer()
    module = MixtureModule(
        small_language_model(), CausalLanguageModeling(), lambda p: torch.optim.SGD(p, 0.1)
    )
    trainer = quiet_trainer(tmp_path, callbacks=[RunSummary()], max_steps=2)
    with caplog.at_level("INFO"):
        if broken:
            data.tokenizer.decode = lambda ids: 1 / 0
            with pytest.warns(match="no sample of text: ZeroDivisionError: division by zero"):
                trainer.fit(module, datamodule=data)
        else:
            trainer.fit(module, datamodule=data)
    said = "\n".join(caplog.messages)
    assert "perplexity at step 0  at step 2" in said
    assert (f'A sample: after "{"a" * 16}" the network writes "' in said) is not broken


def test_line_ends_of_a_sample_are_escaped():
    assert sample_line('é"', "\n") == 'A sample: after "é\\"" the network writes "\\n"'
