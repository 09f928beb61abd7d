"""Numbers at given places of a file."""

import numpy as np
from numpy.typing import NDArray


def read_u32(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the uint32 at each of these bytes, in the shape of `places`.

    Example:
        >>> read_u32(np.array([9, 1, 2, 0, 0], np.uint8), np.array([1])).tolist()
        [513]
    """
    found = data[places[..., None] + np.arange(4)]
    return np.ascontiguousarray(found).view("<u4")[..., 0].astype(np.int64)
