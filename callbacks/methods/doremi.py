"""DoReMi: weights from the loss in excess of a reference network's (arXiv 2305.10429)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from tandem_pl.callbacks.loss_weighting import LossWeighting, raised, sample_weights, weighted_step
from tandem_pl.callbacks.measures.gathering import gather_sum
from tandem_pl.checks import check_choice, check_positive, check_share
from tandem_pl.episode import MixtureBatch, Outputs
from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating, keeping_buffers
from tandem_pl.randomness import seed_generators
from tandem_pl.simplex import Array
from tandem_pl.training.micro_batches import split_batch

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule


class DoReMiReweighting(LossWeighting):
    """alpha <- (1 - c) alpha exp(eta lambda) / Z + c / M at every step (DoReMi, algorithm 1).

    lambda_m is the excess loss of domain m: the mean over its tokens in the batch of
    max(loss - loss of the reference, 0). The reference is a network that was trained before, for
    example with uniform weights; it does not change. Domains are drawn alike, and the new weights
    act on the same step's loss. The result is the mean over all steps, the start included, to be
    drawn with in the final run.

    Tokens are clipped one by one where the objective has `token_losses(network, samples)` ->
    (losses [B, T], labelled [B, T]), otherwise samples are. A domain that is absent from a batch
    keeps its last score, and one that was never seen has 0.

    The authors' code differs from the paper: their loss is a weighted mean over the batch's tokens
    (`loss_mean="sample"`, where samples are equally long: a sample's loss is the mean over its
    tokens here), their smoothing is 1e-4 by default, dropout is on in their reference,
    and scores start at log(vocabulary) rather than 0.

    Cost: a step is 4/3 of a plain one, as the reference adds a forward (5/3 with micro-batches,
    whose weights take a forward of their own), and there is the reference's own training. Memory:
    one more network, without optimizer state or activations.

    Args:
        reference: path of a checkpoint, or of a run's folder, whose network is the reference; of
            the same architecture as this run's. Needed again to resume.
        learning_rate: eta, per nat. The paper's 1 swings widely in short runs, where excess losses
            are large at first; others use 0.1 or 0.01.
        smoothing: c, the share that is spread evenly, 0 to 1.
        loss_mean: "domain" for the loss sum_m alpha_m mean_m of the paper; "sample" for
            sum_b alpha_d(b) loss_b / sum_b alpha_d(b), the official code's.
        update: "exponentiated" is DoReMi's; "projected" is TANDEM's rule with the hyper-gradient
            Delta = -lambda.
        episode_steps: steps between two rows of the trajectory.

    Raises:
        InputError: for settings out of range, or a reference that cannot be loaded or is of
            another architecture.
    """

    method = "doremi"
    signal_name = "excess_loss"
    signal_columns = ("excess_loss",)
    unit = "excess_loss"

    def __init__(
        self,
        reference: str,
        learning_rate: float = 1.0,
        smoothing: float = 1e-3,
        loss_mean: Literal["domain", "sample"] = "domain",
        update: Literal["exponentiated", "projected"] = "exponentiated",
        episode_steps: int = 50,
    ) -> None:
        super().__init__(episode_steps)
        check_positive("learning_rate", learning_rate)
        check_share("smoothing", smoothing)
        check_choice("loss_mean", loss_mean, ("domain", "sample"))
        check_choice("update", update, ("exponentiated", "projected"))
        self.reference = str(reference)
        self.learning_rate = learning_rate
        self.smoothing = smoothing
        self.loss_mean = loss_mean
        self.rule = update
        self.network: nn.Module | None = None  # the reference

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Loads the reference."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            network = load_reference(self.reference, pl_module.network)  # type: ignore[arg-type]
            self.network = trainer.precision_plugin.convert_module(network)  # as this run's will be

    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Excess losses, new weights, and one update of the network."""
        assert self.network is not None
        self.network.to(module.device)
        parts = split_batch(batch.samples, len(batch.domains), module.micro_batch_size)
        sums, losses, start = [], None, 0
        for index, (part, size) in enumerate(parts):
            with nullcontext() if len(parts) == 1 else ahead(module.network):
                mine = token_losses(module, module.network, part, size, batch.step, index)
            with torch.no_grad(), evaluating(self.network):
                theirs = token_losses(module, self.network, part, size, batch.step, index)
            domains = batch.domains[start : start + size]
            sums.append(excess_sums(mine, theirs, domains, len(self.alpha)))
            losses = mine.means() if len(parts) == 1 else None  # its graph serves the update too
            start += size
        excess, tokens, counts = gather_sum(module.trainer, np.sum(sums, axis=0))
        self.move(module, excess / np.maximum(tokens, 1), tokens > 0)
        weights = sample_weights(batch.domains, self.alpha, counts, self.loss_mean)
        return {"losses": weighted_step(module, batch, weights, losses)}

    def moved(self, module: MixtureModule, scores: Array) -> Array:
        """DoReMi's update."""
        return raised(self.alpha, scores, self.learning_rate, self.smoothing, self.rule)

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return {
            "reference": self.reference,
            "learning_rate": self.learning_rate,
            "smoothing": self.smoothing,
            "loss_mean": self.loss_mean,
            "update": self.rule,
            "episode_steps": self.episode_steps,
        }


@contextmanager
def ahead(network: nn.Module) -> Iterator[None]:
    """For a forward that another one repeats: no graph, and buffers as they were."""
    with torch.no_grad(), keeping_buffers(network):
        yield


class TokenLosses(NamedTuple):
    """Losses [B, T], and whether each counts [B, T]; T is 1 where a sample has one loss."""

    losses: Tensor
    labelled: Tensor

    def means(self) -> Tensor:
        """The samples' losses [B]; 0 for a sample without a labelled token."""
        sums = torch.where(self.labelled, self.losses, 0.0).sum(dim=1)
        return sums / self.labelled.sum(dim=1).clamp(min=1)


def token_losses(
    module: MixtureModule, network: nn.Module, samples: Any, size: int, step: int, *salt: int
) -> TokenLosses:
    """Losses by token where the objective gives them, else by sample."""
    by_token = getattr(module.objective, "token_losses", None)
    if by_token is None:
        losses = module.losses(network, samples, size, step, *salt)[:, None]
        return TokenLosses(losses, torch.ones_like(losses, dtype=torch.bool))
    seed_generators(module.device, module.seed, step, module.global_rank, *salt)
    losses, labelled = by_token(network, samples)
    return TokenLosses(losses, labelled.bool())


@torch.no_grad()
def excess_sums(mine: TokenLosses, reference: TokenLosses, domains: Tensor, size: int) -> Array:
    """[3, M] float64: sum of max(loss - reference loss, 0) over tokens, tokens, and samples.

    >>> ones = torch.ones(3, 1, dtype=torch.bool)
    >>> mine, reference = torch.tensor([[2.0], [1.0], [4.0]]), torch.tensor([[1.0], [3.0], [1.0]])
    >>> domains = torch.tensor([0, 0, 1])
    >>> excess_sums(TokenLosses(mine, ones), TokenLosses(reference, ones), domains, 2).tolist()
    [[1.0, 3.0], [2.0, 1.0], [2.0, 1.0]]
    """
    gap = mine.losses.cpu().double() - reference.losses.cpu().double()
    gap = torch.where(gap.isfinite(), gap.relu(), torch.nan)  # so that the clip hides no such loss
    labelled, numbers = mine.labelled.cpu(), domains.cpu().numpy()
    sums = torch.where(labelled, gap, 0.0).sum(dim=1).numpy()
    return np.stack(
        [
            np.bincount(numbers, sums, size),
            np.bincount(numbers, labelled.sum(dim=1).double().numpy(), size),
            np.bincount(numbers, minlength=size).astype(np.float64),
        ]
    )


def load_reference(path: str, network: nn.Module) -> nn.Module:
    """A copy of `network` with the parameters and buffers of a checkpoint's, which do not train.

    Args:
        path: of a checkpoint of this package's modules, or of a run's folder with
            `checkpoints/last.ckpt`.
        network: of the same architecture. Frozen parameters that the checkpoint left out
            (`checkpoint_frozen=False`) stay as they are in it.

    Raises:
        InputError: the file is missing, is no such checkpoint, or has another architecture.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "checkpoints" / "last.ckpt"
    try:
        content = torch.load(place, map_location="cpu", weights_only=True)
        saved = {
            key.removeprefix("network."): value
            for key, value in content["state_dict"].items()
            if key.startswith("network.")
        }
    except FileNotFoundError:
        raise InputError(
            f"reference={str(place)!r} does not exist: give the checkpoint of a run on the same "
            "network."
        ) from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"reference={str(place)!r} is not a checkpoint of a run ({reason[:120]}): give one "
            "that trainer.fit has saved."
        ) from None
    twin = copy.deepcopy(network)
    wanted = twin.state_dict()
    frozen = {name for name, p in twin.named_parameters() if not p.requires_grad}
    wrong = [
        key
        for key in [*wanted, *saved]
        if (key not in saved and key not in frozen)
        or key not in wanted
        or (key in saved and saved[key].shape != wanted[key].shape)
    ]
    if wrong:
        raise InputError(
            f"reference={str(place)!r} has another architecture than this run's network, which "
            f"first differs in {wrong[0]!r}: train the reference with the same network settings."
        )
    twin.load_state_dict(saved, strict=False)
    return twin.requires_grad_(False).eval()
