from itertools import islice

from tandem_pl.datamodules.text.threads import map_in_threads


def test_threads_keep_order_and_take_few_batches_at_once():
    taken = []

    def batches():
        for number in range(30):
            taken.append(number)
            yield "x" * number

    results = map_in_threads(len, batches(), 2)
    assert list(islice(results, 3)) == [0, 1, 2]
    assert len(taken) <= 9
    assert list(results) == list(range(3, 30))
