"""The picture of a confusion matrix."""

import io

import numpy as np
import pytest

from tandem_pl.callbacks.monitoring.confusion_matrix import draw_confusion


@pytest.mark.parametrize("size", [2, 10, 100, 150])
def test_the_picture_names_the_classes_and_has_the_shares(size):
    counts = np.random.default_rng(0).integers(0, 3, (size, size))
    counts[1] = 0  # no such label
    names = [f"${number}" for number in range(size)]
    figure = draw_confusion(counts, names)
    axes = figure.axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown == names[:: 1 if size <= 100 else 2]
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert np.isnan(shares[1]).all()
    np.testing.assert_allclose(shares[0], counts[0] / counts[0].sum())
    assert bool(axes.texts) == (size == 2 or size == 10)
    assert f"{np.trace(counts)} of {counts.sum()} right" in axes.get_title()
    file = io.BytesIO()
    figure.savefig(file, format="png")  # "$" is not mathematics
    width, height = figure.get_size_inches() * 100
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert min(box.x0 for box in boxes) > 0
    pitch = axes.get_window_extent().height / len(shown)
    assert max(box.height for box in boxes) < 1.3 * pitch  # so that names can be told apart
    assert max(width, height) < 1700
