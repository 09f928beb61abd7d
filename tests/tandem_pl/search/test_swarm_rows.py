"""The rows of a swarm, from processes that end at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from tandem_pl.search.swarm.rows import (
    failed_row,
    forget_failures,
    read_rows,
    row_of,
    write_row,
    write_table,
)


def row(number):
    weights, losses = {"a": 0.25, "b": 0.75}, {"t": 1.0, "u": 3.0}
    return row_of(number, weights, losses, {"t": 0.5, "u": 0.5}, {"size": 7})


def test_no_row_is_lost_if_cells_end_together(tmp_path):
    def end(number):
        write_row(tmp_path, row(number))
        write_table(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(40)))
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table["run"].tolist() == list(range(40))
    assert table["metric/loss"].tolist() == [2.0] * 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows", "runs.csv"]


def test_failures_are_forgotten_and_nothing_else(tmp_path):
    write_row(tmp_path, failed_row(0, {"a": 1.0, "b": 0.0}, "it was killed, and said: no"))
    write_row(tmp_path, row(1))
    write_table(tmp_path)
    assert list(read_rows(tmp_path)) == [0, 1]
    forget_failures(tmp_path, [1])
    assert list(read_rows(tmp_path)) == [0, 1]
    forget_failures(tmp_path, range(2))
    assert list(read_rows(tmp_path)) == [1]
    assert pd.read_csv(tmp_path / "runs.csv")["weight/b"].tolist() == [0.75]
