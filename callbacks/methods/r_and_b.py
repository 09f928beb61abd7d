"""R&B: weights from the products of the domains' output-head gradients (arXiv 2505.00358)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains
from tandem_pl.callbacks.measures.gathering import from_first_rank
from tandem_pl.callbacks.measures.head_gradients import HeadGradients, find_head
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.checks import check_at_least, check_positive
from tandem_pl.data_weights import locate_targets, resolve_data_weights, target_mixture
from tandem_pl.episode import TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.randomness import hash_numbers
from tandem_pl.simplex import Array, sum_to_one
from tandem_pl.training.collectives import sum_over_ranks
from tandem_pl.training.mixture_module import MixtureModule

from .method import Method


def r_and_b_weights(products: Array, shares: Array, strength: float = 3.0) -> Array:
    """Return alpha = softmax(lambda G p / ||G p||_2); equal weights if G p = 0.

    Args:
        products: G [M, M], G_ij = <g_i, g_j> / (n_i n_j) for sums g_i of n_i samples' gradients.
        shares: p [M] of the domains in what the network is evaluated on.
        strength: lambda; the largest ratio of two weights is exp(sqrt(2) lambda).

    >>> r_and_b_weights(np.array([[3.0, 0.0], [0.0, 4.0]]), np.ones(2), 5.0).round(3).tolist()
    [0.269, 0.731]
    """
    gain = products @ shares
    length = np.linalg.norm(gain)
    score = strength * gain / length if length > 0 else gain
    share = np.exp(score - score.max())
    return sum_to_one(share / share.sum())


class RAndBReweighting(ReweightingCallback):
    """alpha <- softmax(lambda G p / ||G p||) every `period` steps, from the head's gradients.

    G_ij = <g_i, g_j> / (n_i n_j); g_i is the sum, over the n_i training samples of domain i in the
    period, of their losses' gradients with respect to the head's weight and bias. They come from
    the training steps themselves: there is no other forward or backward, and the steps are those
    of plain training, to the bit unless the objective would compute the head in chunks: while it is
    read, all of its outputs are in memory at once. A domain that was not drawn in a period keeps
    its last mean gradient; one that was never drawn counts as 0.

    With the module's `sample_weights`, losses are the weighted ones.

    Beside the network it keeps two sets of M head gradients, in float32 and in checkpoints: 8 M C d
    bytes for C outputs and d inputs, with `sketch` in place of a larger C. For GPT-2's
    head of 50 257 by 768 and 100 domains these are 39 MB, or 31 GB with `sketch: null`.

    Args:
        period: training steps between updates.
        strength: lambda; the paper's is 3.
        shares: p, the shares of the training domains in what counts, written as the data module's
            `weights`. None is "target" if it can be, and else the data module's weights.
        head: name of the linear layer whose gradients are compared; None for the last one.
        every: gradients are taken of a random one in so many training steps; the paper's is 1. 2
            costs half, and compares half of the period's samples: of 640, that moved a weight by up
            to 0.10.
        sketch: random directions to which the gradients of more outputs are projected; None for
            exact products at any cost. 64 changed no weight by more than 0.007 in the same run, of
            0.23 M parameters.
        anchor: as of every method; see `callbacks.anchor`.

    It costs the products of the head's inputs and gradients, and a pass over the outputs'
    gradients: in processor time 0.7 % of a step of 0.23 M parameters, 0.2 % of one of 3 M, and
    0.6 % of one of 7 M with 4096 outputs; twice that with the paper's `every: 1`.

    Raises:
        InputError: for settings out of range, a network without such a layer, one that is compiled,
            or a layout of the samples other than "padded".
    """

    method = "r_and_b"
    signal_name = "gain"
    signal_columns = ("gain", "samples")
    rows = (
        Method(
            "r_and_b",
            "alignment of the output head's gradients with those of the domains that count",
            "arXiv 2505.00358",
            "0 (less than 1 % of a step)",
            work=lambda settings, run: run.steps,
        ),
    )

    def __init__(
        self,
        period: int = 50,
        strength: float = 3.0,
        shares: Any = None,
        head: str | None = None,
        every: int = 2,
        sketch: int | None = 64,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_at_least("period", period, 1)
        check_positive("strength", strength)
        check_at_least("every", every, 1)
        if every > period:
            raise InputError(
                f"every={every} must be at most period={period}; give a smaller every."
            )
        if sketch is not None:
            check_at_least("sketch", sketch, 1)
        self.period = period
        self.strength = strength
        self.shares = shares
        self.head = head
        self.every = every
        self.sketch = sketch
        self._collector: HeadGradients | None = None
        self._p: Array = np.zeros(0)
        self._head_name = ""  # and the width of its gradients
        self._saved_head = self.add_state("_saved_head", str)  # that of the checkpoint
        # [M, width] sums of the period, None before its first batch; [M] samples in them
        self._sums: Tensor | None = self.add_state("_sums", lambda: None, tensors=True)
        self._counts: Tensor | None = self.add_state("_counts", lambda: None, tensors=True)
        # [M, width] last mean gradient of each domain
        self._means: Tensor | None = self.add_state("_means", lambda: None, tensors=True)

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Find the head and the shares; raise an error for what hides the head's gradients."""
        if module.compile_options is not False:
            raise InputError(
                f"RAndBReweighting reads gradients inside the network, which compile="
                f"{module.compile_options} hides: set compile=false."
            )
        layout = getattr(module.objective, "layout", "padded")  # of causal language modeling
        if layout != "padded":
            raise InputError(
                f"RAndBReweighting needs one row a sample in the network's forward, and the "
                f"objective has layout={layout!r}: set it to 'padded'."
            )
        size = len(self.domains)
        head = find_head(module.network, self.head)
        self._collector = HeadGradients(head, size, self.sketch)
        name = next(name for name, part in module.network.named_modules() if part is head)
        self._head_name = self._saved_head = f"{name} ({self._collector.width} numbers)"
        self._p = self._evaluation_shares()

    def _evaluation_shares(self) -> Array:
        """Return p [M]."""
        if self.shares is not None:
            return resolve_data_weights(self.shares, self.data, "shares").array
        rows = locate_targets(self.data).values()
        known = bool(rows) and all(row.any() for row in rows)
        return (target_mixture(self.data) if known else self.data.mixture).array

    def plan(self) -> Plan:
        """Return one segment of training batches."""
        return [Segment(TRAIN, self.period, tuple(self.weights.tolist()))]

    def handlers(self) -> dict[str, Handler]:
        """Return the training step."""
        return {TRAIN: self.train}

    def _reads(self, step: int) -> bool:
        """Return whether gradients of a step are taken: of a random one in each `every` steps.

        Not of every second step, say, because domains may be drawn in turns.
        """
        period, place = divmod(step, self.period)
        block, place = divmod(place, self.every)
        return place == hash_numbers(self.data.seed, period, block) % self.every

    def train(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Take the ordinary step, and add its head gradients to the sums."""
        assert self._collector is not None
        if not self._reads(batch.step):
            return {"losses": module.train_step(batch)}
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        scale = len(batch.domains) / (1.0 if scaler is None else float(scaler.get_scale()))
        self._collector.sums = self._sums
        with self._collector.collecting(batch.domains, scale):
            losses = module.train_step(batch)
        self._sums = self._collector.sums
        if self._counts is None:
            self._counts = torch.zeros(len(self.domains), device=module.device)
        ones = torch.ones_like(batch.domains, dtype=self._counts.dtype)
        self._counts.index_add_(0, batch.domains, ones)  # bincount would wait for the device
        return {"losses": losses}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give rank 0, whose state is saved, the sums of all ranks; a resumed run goes on so."""
        if trainer.world_size > 1 and self._sums is not None and self._counts is not None:
            sum_over_ranks([self._sums, self._counts])
            self._forget_unless_first(trainer)
            checkpoint["callbacks"][self.state_key] = self.state_dict()
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the sums that a checkpoint brought to rank 0; raise an error for another head's."""
        super().on_train_start(trainer, pl_module)
        if self._saved_head != self._head_name:
            raise InputError(
                f"the checkpoint has gradients of the head {self._saved_head}, and this run takes "
                f"those of {self._head_name}: use the same head and sketch to resume."
            )
        self._forget_unless_first(trainer)

    def _forget_unless_first(self, trainer: Trainer) -> None:
        for tensor in (self._sums, self._counts):
            if trainer.global_rank > 0 and tensor is not None:
                tensor.zero_()

    @torch.no_grad()
    def update(self, trainer: Trainer, module: Any) -> Update:
        """Return the weights of the period's gradients."""
        sums, counts = self._sums, self._counts
        assert sums is not None
        assert counts is not None
        self._sums = self._counts = None
        if trainer.world_size > 1:
            sum_over_ranks([sums, counts])
        samples = from_first_rank(trainer, counts.double().cpu().numpy())
        finite = from_first_rank(trainer, sums.isfinite().all(dim=1).double().cpu().numpy())
        if not finite.all():
            bad = bad_domains(self.domains, np.where(finite > 0, 0.0, np.nan))
            return self.keep_weights(trainer, "a gradient of the head is not finite", bad)
        means = sums.div_(counts.clamp(min=1).to(sums)[:, None])
        if self._means is not None:
            means = torch.where(counts[:, None] > 0, means, self._means)
        self._means = means
        products = from_first_rank(trainer, (means @ means.mT).double().cpu().numpy())
        gain = products @ self._p
        self.keep_signal(trainer, gain, samples)
        weights = r_and_b_weights(products, self._p, self.strength)
        return weights, self.by_domain("gain", gain)
