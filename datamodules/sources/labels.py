"""Labels of Hugging Face data sets (`ClassLabel`), which are stored as numbers, by their names."""

from typing import Any


def has_labels(feature: Any) -> bool:
    """Return whether a column of this feature holds labels."""
    from datasets import ClassLabel

    if isinstance(feature, dict):
        return any(map(has_labels, feature.values()))
    inner = getattr(feature, "feature", None)  # of a list
    return isinstance(feature, ClassLabel) or (inner is not None and has_labels(inner))


def name_labels(value: Any, feature: Any) -> Any:
    """Return a value with the names of its labels in place of their numbers.

    Args:
        value: a value of the column.
        feature: the column's, or None if it has no labels.
    """
    from datasets import ClassLabel

    if value is None or feature is None:
        return value
    if isinstance(feature, ClassLabel):
        return feature.names[value] if value >= 0 else None  # -1: not labelled
    if isinstance(feature, dict):
        return {key: name_labels(value[key], inner) for key, inner in feature.items()}
    inner = getattr(feature, "feature", None)
    return value if inner is None else [name_labels(item, inner) for item in value]
