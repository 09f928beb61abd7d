"""DoReMi: weights from the loss in excess of a reference network's (arXiv 2305.10429)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.loss_weighting import LossWeighting, sample_weights, weighted_step
from tandem_pl.callbacks.measures.gathering import gather_sum
from tandem_pl.checks import check_choice, check_positive
from tandem_pl.episode import TRAIN, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating, keeping_buffers
from tandem_pl.randomness import seed_generators
from tandem_pl.simplex import Array
from tandem_pl.training.micro_batches import split_batch
from tandem_pl.training.mixture_module import MixtureModule

from .method import Method


class DoReMiReweighting(LossWeighting):
    """alpha <- (1 - c) alpha exp(eta lambda) / Z + c / M at every step (DoReMi, algorithm 1).

    lambda_m is the excess loss of domain m: the mean over its tokens in the batch of
    max(loss - loss of the reference, 0). The reference is a network that was trained before, for
    example with uniform weights; it does not change. Domains are drawn evenly, and the new weights
    act on the same step's loss. The result is the mean over all steps and the start, to be drawn
    with in the final run.

    Single tokens are clipped if the objective has `token_losses(network, samples)` ->
    (losses [B, T], labelled [B, T]), otherwise samples. A domain that the batch lacks keeps its
    last score, which starts at 0.

    The authors' code differs from the paper: it draws domains with the reference's weights s and
    weighs losses by alpha/s (`sampling="weights"`), its loss is a weighted mean over the batch's
    tokens (`loss_mean="sample"` if samples are equally long: a sample's loss is the mean over its
    tokens here), its smoothing is 1e-4 by default, its reference has dropout, and its scores start
    at log(vocabulary).

    A step costs 4/3 of a plain one, because the reference adds a forward (5/3 with micro-batches,
    whose weights need one more forward), and the reference has to be trained. It needs the memory
    of one more network, without optimizer state or activations.

    Args:
        reference: path of a checkpoint, or of a run's folder, whose network is the reference; it
            must have this run's architecture. A resumed run needs it too.
        learning_rate: eta, per nat. The paper's 1 makes weights swing in short runs, because excess
            losses are large at first; others use 0.1 or 0.01.
        smoothing: c, the share that is spread evenly, 0 to 1.
        loss_mean: "domain" for the paper's loss sum_m alpha_m mean_m; "sample" for the official
            code's, sum_b alpha_d(b) loss_b / sum_b alpha_d(b).
        update: "exponentiated" is DoReMi's; "projected" is TANDEM's rule with the hyper-gradient
            Delta = -lambda.
        episode_steps: steps between two rows of the trajectory.
        sampling: "even" draws every domain as often; "weights" draws with the data module's
            weights s, which are alpha's start too: give it those that the reference was trained
            with. A sample then weighs alpha/s in place of alpha with loss_mean="sample"; means of
            domains need no such correction.
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, a domain of weight 0 with sampling="weights", or a
            reference that cannot be loaded or has another architecture.
    """

    method = "doremi"
    signal_name = "excess_loss"
    signal_columns = ("excess_loss",)
    unit = "excess_loss"
    rows = (
        Method(
            "doremi",
            "training loss in excess of that of a reference network trained before",
            "arXiv 2305.10429",
            "1/3 of the steps, and the reference's training once",
            lambda settings, run: run.steps * 4 / 3,  # the reference's training is another run
            needs_reference=True,
            online=False,
        ),
    )

    def __init__(
        self,
        reference: str,
        learning_rate: float = 1.0,
        smoothing: float = 1e-3,
        loss_mean: Literal["domain", "sample"] = "domain",
        update: Literal["exponentiated", "projected"] = "exponentiated",
        episode_steps: int = 50,
        sampling: Literal["even", "weights"] = "even",
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(learning_rate, smoothing, update, episode_steps, anchor)
        check_positive("learning_rate", learning_rate)
        check_choice("loss_mean", loss_mean, ("domain", "sample"))
        check_choice("sampling", sampling, ("even", "weights"))
        self.reference = str(reference)
        self.learning_rate = learning_rate
        self.loss_mean = loss_mean
        self.sampling = sampling
        self.reference_network: nn.Module  # set by `check`

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Load the reference; raise an error if it does not fit."""
        super().check(trainer, module)
        if self.sampling == "weights" and not self.data.mixture.array.all():
            zero = self.domains[int(self.data.mixture.array.argmin())]
            raise InputError(
                f"sampling='weights' never draws {zero!r}, whose weight is 0: give it a weight in "
                "the datamodule's weights, or set sampling=even."
            )
        network = load_reference(self.reference, module.network)
        self.reference_network = trainer.precision_plugin.convert_module(network)

    def plan(self) -> Plan:
        """Return training batches, drawn evenly or with the data module's weights."""
        if self.sampling == "even":
            return super().plan()
        return [Segment(TRAIN, self.episode_steps, tuple(self.data.mixture.array.tolist()))]

    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Compute excess losses, update alpha, and update the network."""
        reference = self.reference_network.to(module.device)
        parts = split_batch(batch.samples, len(batch.domains), module.micro_batch_size)
        sums, losses, start = [], None, 0
        for index, (part, size) in enumerate(parts):
            with nullcontext() if len(parts) == 1 else looking_ahead(module.network):
                mine = token_losses(module, module.network, part, size, batch.step, index)
            with torch.no_grad(), evaluating(reference):
                theirs = token_losses(module, reference, part, size, batch.step, index)
            domains = batch.domains[start : start + size]
            sums.append(excess_sums(mine, theirs, domains, len(self.alpha)))
            losses = mine.means() if len(parts) == 1 else None  # the update uses its graph too
            start += size
        excess, tokens, counts = gather_sum(module.trainer, np.sum(sums, axis=0))
        self.take_scores(module, excess / np.maximum(tokens, 1), tokens > 0)
        alpha = self.alpha
        if self.sampling == "weights" and self.loss_mean == "sample":
            alpha = alpha / self.data.mixture.array
        weights = sample_weights(batch.domains, alpha, counts, self.loss_mean)
        return {"losses": weighted_step(module, batch, weights, losses)}


@contextmanager
def looking_ahead(network: nn.Module) -> Iterator[None]:
    """Make no graph, and restore buffers: another forward will repeat this one."""
    with torch.no_grad(), keeping_buffers(network):
        yield


class TokenLosses(NamedTuple):
    """Losses [B, T], and whether each counts [B, T]; T is 1 if samples have one loss each."""

    losses: Tensor
    labelled: Tensor

    def means(self) -> Tensor:
        """Return the samples' losses [B]; 0 for a sample without a labelled token."""
        sums = torch.where(self.labelled, self.losses, 0.0).sum(dim=1)
        return sums / self.labelled.sum(dim=1).clamp(min=1)


def token_losses(
    module: MixtureModule, network: nn.Module, samples: Any, size: int, step: int, *salt: int
) -> TokenLosses:
    """Return losses by token if the objective gives them, otherwise by sample."""
    by_token = getattr(module.objective, "token_losses", None)
    if by_token is None:
        losses = module.losses(network, samples, size, step, *salt)[:, None]
        return TokenLosses(losses, torch.ones_like(losses, dtype=torch.bool))
    seed_generators(module.device, module.seed, step, module.global_rank, *salt)
    losses, labelled = by_token(network, samples)
    return TokenLosses(losses, labelled.bool())


@torch.no_grad()
def excess_sums(mine: TokenLosses, reference: TokenLosses, domains: Tensor, size: int) -> Array:
    """Return [3, M] float64: sum over tokens of max(loss - reference loss, 0), tokens, samples.

    >>> ones = torch.ones(3, 1, dtype=torch.bool)
    >>> mine, reference = torch.tensor([[2.0], [1.0], [4.0]]), torch.tensor([[1.0], [3.0], [1.0]])
    >>> domains = torch.tensor([0, 0, 1])
    >>> excess_sums(TokenLosses(mine, ones), TokenLosses(reference, ones), domains, 2).tolist()
    [[1.0, 3.0], [2.0, 1.0], [2.0, 1.0]]
    """
    gap = mine.losses.cpu().double() - reference.losses.cpu().double()
    gap = torch.where(gap.isfinite(), gap.relu(), torch.nan)  # the clip must not hide these
    labelled, numbers = mine.labelled.cpu(), domains.cpu().numpy()
    sums = torch.where(labelled, gap, 0.0).sum(dim=1).numpy()
    tokens = labelled.sum(dim=1).double().numpy()
    by_sample = sums, tokens, np.ones(len(numbers))
    return np.stack([np.bincount(numbers, values, size) for values in by_sample])


def load_reference(path: str, network: nn.Module) -> nn.Module:
    """Return a frozen copy of `network` with the parameters and buffers of a checkpoint.

    Args:
        path: of a checkpoint of this package's modules, or of a run's folder with
            `checkpoints/last.ckpt`.
        network: of the same architecture. It keeps frozen parameters that the checkpoint left out
            (`checkpoint_frozen=False`).

    Raises:
        InputError: the file is missing, is no such checkpoint, or has another architecture.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "last.ckpt"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        saved = {
            key.removeprefix("network."): value
            for key, value in content.items()
            if key.startswith("network.")
        }
    except FileNotFoundError:
        raise InputError(
            f"reference={str(file)!r} does not exist: give the checkpoint of a run on the same "
            "network."
        ) from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"reference={str(file)!r} is not a checkpoint of a run ({reason[:120]}): give one "
            "that trainer.fit has saved."
        ) from None
    twin = copy.deepcopy(network)
    wanted = twin.state_dict()
    frozen = {name for name, p in twin.named_parameters() if not p.requires_grad}
    wrong = [key for key in wanted if key not in saved and key not in frozen]
    wrong += [k for k in saved if k not in wanted or saved[k].shape != wanted[k].shape]
    if wrong:
        raise InputError(
            f"reference={str(file)!r} has another architecture than this run's network, which "
            f"first differs in {wrong[0]!r}: train the reference with the same network settings."
        )
    twin.load_state_dict(saved, strict=False)
    return twin.requires_grad_(False).eval()
