"""The page of charts in TensorBoard's tab "Custom Scalars"."""

from __future__ import annotations

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.curves import MOST_CURVES

from .mixture_scalars import band_scalars


def chart_layout(
    reweighting: ReweightingCallback | None, twins: bool, validates: bool
) -> dict[str, dict[str, list]]:
    """Return category -> chart -> [kind, tags], for `SummaryWriter.add_custom_scalars`.

    The tags of "Multiline" charts are regular expressions that match from the start of a tag.

    Args:
        reweighting: the callback that sets the weights; None for none.
        twins: whether it trains a reference beside the proxy.
        validates: whether there is validation in fit.
    """
    learns = reweighting is not None
    many = reweighting is not None and len(reweighting.domains) > MOST_CURVES
    metrics = {} if reweighting is None else reweighting.metrics
    slopes = many and any(tag.startswith("hypergradient/") for tag in metrics)
    both = twins and validates
    charts: tuple[tuple[bool, str, str, list[str]], ...] = (  # shown, category, name, tags
        (learns, "mixture", "weights", ["mixture/weight/.*"]),
        (learns, "mixture", "effective domains", ["mixture/effective_domains$"]),
        (learns, "mixture", "way and drift", ["mixture/(distance|drift|fluctuation)$"]),
        (twins, "mixture", "distance of the twins", ["twins/distance$"]),
        (slopes, "mixture", "hyper-gradient", ["hypergradient/.*"]),
        (many, "mixture", "largest weight", ["mixture/largest_weight$"]),
        (many, "mixture", "share of domains at the lowest weight", ["mixture/at_lowest$"]),
        (True, "loss by domain", "train", ["train/loss/.*"]),
        (twins, "loss by domain", "train, reference (probe steps)", ["train/loss_reference/.*"]),
        (twins, "loss by domain", "target, reference (probe steps)", ["target/loss/.*"]),
        (validates, "loss by domain", "validation", ["validation/loss/.*"]),
        (both, "loss by domain", "validation, reference", ["validation/loss_reference/.*"]),
        (True, "mean loss", "train", ["train/loss$", "train/loss_reference$"]),
        (twins, "mean loss", "target", ["target/loss$"]),
        (validates, "mean loss", "validation", ["validation/loss$", "validation/loss_reference$"]),
        (True, "data", "share of samples so far", ["sampler/drawn/.*"]),
        (True, "data", "epochs seen", ["seen/epochs/.*"]),
        (many, "data", "most epochs of a domain", ["seen/most_epochs$"]),
    )
    layout: dict[str, dict[str, list]] = {}
    for shown, category, name, tags in charts:
        if shown:
            layout.setdefault(category, {})[name] = ["Multiline", tags]
    if reweighting is not None and band_scalars(reweighting):
        band = "hypergradient_band"
        layout["hyper-gradient, with standard error"] = {
            tag: ["Margin", [f"hypergradient/{tag}", f"{band}/{tag}/lower", f"{band}/{tag}/upper"]]
            for tag in reversed(reweighting.tags)  # TensorBoard shows them last to first
        }
    return layout
