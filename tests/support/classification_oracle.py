"""The metrics of a classifier by torchmetrics."""

from torchmetrics.functional import classification as oracle

NAMES = ("accuracy", "top5_accuracy", "macro_f1", "calibration_error")


def expected(logits, labels):
    """Return the metrics of some samples by torchmetrics."""
    size = {"num_classes": logits.shape[1]}
    values = [
        oracle.multiclass_accuracy(logits, labels, average="micro", **size),
        oracle.multiclass_accuracy(logits, labels, average="micro", top_k=5, **size),
        oracle.multiclass_f1_score(logits, labels, average="macro", **size),
        oracle.multiclass_calibration_error(logits.softmax(1), labels, n_bins=15, **size),
    ]
    return dict(zip(NAMES, map(float, values), strict=True))
