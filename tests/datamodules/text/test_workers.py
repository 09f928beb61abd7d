import os
from itertools import islice

import pytest

from tandem_pl.datamodules.text.workers import Workers
from tandem_pl.errors import InputError


def test_workers_keep_order_and_take_few_batches_at_once():
    taken = []

    def batches():
        for number in range(30):
            taken.append(number)
            yield "x" * number

    with Workers(2) as workers:
        results = workers.map(len, batches())
        assert list(islice(results, 3)) == [0, 1, 2]
        assert len(taken) <= 9
        assert list(results) == list(range(3, 30))


def test_a_worker_that_dies():
    message = "one of workers=2 processes died, most likely for lack of memory"
    with Workers(2) as workers, pytest.raises(InputError, match=message):
        list(workers.map(os._exit, [1, 1]))
