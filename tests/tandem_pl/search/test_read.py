"""Tables of runs: which columns are what, and what is wrong with them."""

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic_runs import draw_mixtures

from tandem_pl import InputError
from tandem_pl.search import Runs, read_runs


@pytest.fixture
def table():
    weights = draw_mixtures(6, 3)
    frame = pd.DataFrame(weights, columns=["web", "code", "books"])
    frame.insert(0, "index", range(1, 7))
    return frame.assign(loss=[3.0, 2.5, 2.75, 2.25, 4.0, 3.5])


def write(frame, path):
    frame.to_csv(path, index=False)
    return path


def test_columns_that_sum_to_one_are_weights_and_the_other_numbers_metrics(table, tmp_path):
    runs = read_runs(write(table.assign(comment="x", accuracy=0.5), tmp_path / "runs.csv"))
    assert runs.domains == ("web", "code", "books")
    assert list(runs.metrics) == ["loss", "accuracy"]
    assert runs.names == ("1", "2", "3", "4", "5", "6")
    np.testing.assert_allclose(runs.weights, table[["web", "code", "books"]], atol=1e-15)
    np.testing.assert_array_equal(runs.metrics["loss"], table["loss"])


def test_marked_columns_win_and_parquet_is_read(table, tmp_path):
    names = {name: f"weight/{name}" for name in ("web", "code", "books")}
    frame = table.rename(columns={**names, "loss": "metric/loss"})
    frame.assign(size=1e6, tokens=2e9, seconds=7.0).to_parquet(tmp_path / "runs.parquet")
    runs = read_runs(tmp_path / "runs.parquet")
    assert runs.domains == ("web", "code", "books")
    assert list(runs.metrics) == ["metric/loss"]
    assert runs.size.tolist() == [1e6] * 6
    assert runs.length.tolist() == [2e9] * 6


def test_the_layout_of_regmix_is_read_as_it_is(table, tmp_path):
    weights = table.drop(columns="loss").rename(
        columns={name: f"train_the_pile_{name}" for name in ("web", "code", "books")}
    )
    weights[weights.columns[1:]] = weights[weights.columns[1:]].round(3)  # sums 0.999 ... 1.001
    losses = table[["index", "loss"]].rename(columns={"loss": "metric/the_pile_web_val_loss"})
    first = write(weights, tmp_path / "mixtures.csv")
    second = write(losses.iloc[::-1], tmp_path / "losses.csv")
    runs = read_runs(first, second)
    assert runs.domains == ("train_the_pile_web", "train_the_pile_code", "train_the_pile_books")
    np.testing.assert_allclose(runs.weights.sum(axis=1), 1.0, atol=1e-15)
    np.testing.assert_array_equal(runs.metrics["metric/the_pile_web_val_loss"], table["loss"])
    assert read_runs(first, second, prefix="train_the_pile_").domains == ("web", "code", "books")


def test_indexes_that_count_from_other_numbers_are_joined_in_order(table, tmp_path):
    first = write(table.drop(columns="loss"), tmp_path / "mixtures.csv")
    second = table[["index", "loss"]].assign(index=range(6))
    with pytest.warns(UserWarning, match="joined in order"):
        runs = read_runs(first, write(second, tmp_path / "losses.csv"))
    np.testing.assert_array_equal(runs.metrics["loss"], table["loss"])
    second["index"] = [1, 2, 3, 4, 5, 9]
    with pytest.raises(InputError, match="only one of them has '6', '9'"):
        read_runs(first, write(second, tmp_path / "losses.csv"))
    with pytest.raises(InputError, match=r"has 6 rows and .* 5"):
        read_runs(first, write(second.iloc[:5, 1:], tmp_path / "losses.csv"))


def test_a_run_written_twice_is_read_once(table, tmp_path):
    twice = pd.concat([table.assign(tokens=19.998), table.iloc[[2, 4]].assign(tokens=20.0)])
    with pytest.warns(UserWarning, match="2 of 8 rows repeat another"):
        runs = read_runs(write(twice, tmp_path / "runs.csv"))
    assert len(runs) == 6
    assert sorted(runs.length) == [19.998] * 4 + [20.0] * 2
    other = table.iloc[[2]].assign(loss=9.0)  # another seed of the same mixture
    runs = read_runs(write(pd.concat([table, other]), tmp_path / "runs.csv"))
    assert len(runs) == 7
    assert runs.groups[2] == runs.groups[6]


def test_failed_runs_are_left_out(table, tmp_path):
    table["status"] = ["done", "failed", "done", "", None, "done"]
    table.loc[1, "loss"] = np.nan
    with pytest.warns(UserWarning, match="1 of 6 runs are marked as failed"):
        runs = read_runs(write(table, tmp_path / "runs.csv"))
    assert runs.names == ("1", "3", "4", "5", "6")


def test_the_folder_of_a_comparison_is_read(tmp_path):
    for number, share in enumerate((0.25, 0.75)):
        folder = tmp_path / "uniform" / f"seed-{number}" / "final"
        folder.mkdir(parents=True)
        result = {"weights": {"a": share, "b": 1 - share}, "losses": {"a": 2.0, "b": 4.0 + number}}
        (folder / "result.yaml").write_text(yaml.safe_dump(result))
    runs = read_runs(tmp_path)
    assert runs.domains == ("a", "b")
    assert runs.weights.tolist() == [[0.25, 0.75], [0.75, 0.25]]
    assert runs.metrics["loss/mean"].tolist() == [3.0, 3.5]
    assert runs.names[0] == "uniform/seed-0"
    with pytest.raises(InputError, match="has no METHOD/seed-N/final"):
        read_runs(tmp_path / "uniform" / "seed-0" / "final")


def test_a_file_of_weights_alone_that_do_not_sum_to_one_is_said_so(table, tmp_path):
    first = table.drop(columns="loss")
    first.iloc[:, 1:] *= 2
    second = write(table[["index", "loss"]], tmp_path / "losses.csv")
    with pytest.raises(InputError, match=r"run 1: the weights sum to 2 .and those of 5 more runs"):
        read_runs(write(first, tmp_path / "mixtures.csv"), second)


def test_metrics_of_training_are_no_weights(table, tmp_path):
    frame = table.assign(train_loss=0.9, train_accuracy=0.9, train_time=7.0)
    runs = read_runs(write(frame, tmp_path / "runs.csv"))
    assert runs.domains == ("web", "code", "books")
    assert "train_loss" in runs.metrics


def percent(table):
    names = {name: f"weight/{name}" for name in ("web", "code", "books")}
    return (table[list(names)] * 100).rename(columns=names).assign(loss=table.loss)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.assign(web=t.web.astype(object).where(t.index > 0, "x")), {}, "'x', not a nu"),
        (lambda t: t.assign(web=t.web + 0.2), {"domains": ["web", "code", "books"]}, "sum to 1.2"),
        (lambda t: t.assign(web=-t.web), {"domains": ["web", "code"]}, "weight of 'web' is -"),
        (lambda t: t.assign(web=t.web.where(t.index > 0)), {}, "run 1: the weight of 'web' is mis"),
        (lambda t: t.assign(loss=t.loss.where(t.index > 1)), {}, r"run 1 has no 'loss' \(2 missi"),
        (lambda t: t.assign(web="x"), {"domains": ["web"]}, "'web' is 'x', not a number"),
        (lambda t: t, {"domains": ["wbe"]}, "no column 'wbe' .* did you mean 'web'"),
        (lambda t: t, {"metrics": ["los"]}, "no metric 'los': did you mean 'loss'"),
        (lambda t: t.drop(columns=["books"]), {}, "no columns of weights"),
        (lambda t: t.drop(columns=["loss"]), {}, "has no metrics"),
        (lambda t: t.iloc[:0], {}, "has no rows"),
        (lambda t: t.assign(status="failed"), {}, "no run of the table has the status 'done'"),
        (lambda t: t.assign(loss=["OOM", 3, 2, 1, 2, 3]), {}, "run 1: 'loss' is 'OOM', not a num"),
        (
            lambda t: t.assign(**{"metric/a": ["x"] * 5 + [1], "metric/b": t.loss}),
            {},
            "run 1: 'metric/a' is 'x'",
        ),
        (
            lambda t: t.assign(size=[None] + [1e6] * 5),
            {},
            r"'size' is missing \(1 of 6 runs are so",
        ),
        (lambda t: t.assign(size="small"), {}, "'size' is 'small', not a number"),
        (lambda t: t.assign(tokens=[0] + [1e6] * 5), {}, "run 1: 'tokens' is 0 "),
        (percent, {}, "run 1: the weights sum to 100 "),
        (lambda t: t, {"missing": "skip"}, "'error' or 'drop'"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(table, tmp_path, change, options, message):
    path = write(change(table), tmp_path / "runs.csv")
    with pytest.raises(InputError, match=message):
        read_runs(path, **options)


def test_sizes_may_be_written_with_their_unit(table, tmp_path):
    sizes = ["1M", "60M", "1.5b", "2 k", "7e9", "1"]
    runs = read_runs(write(table.assign(size=sizes), tmp_path / "runs.csv"), metrics="loss")
    assert runs.size.tolist() == [1e6, 6e7, 1.5e9, 2e3, 7e9, 1.0]
    assert list(runs.metrics) == ["loss"]


def test_what_a_run_that_is_left_out_lacks_does_not_matter(table, tmp_path):
    sizes = [None, *[1e6] * 5]
    gap = table.assign(loss=table.loss.where(table.index > 0), size=sizes)
    gap.loc[0, "web"] = np.nan
    with pytest.warns(UserWarning, match="1 of 6 runs miss a metric"):
        runs = read_runs(write(gap, tmp_path / "runs.csv"), missing="drop")
    assert runs.size.tolist() == [1e6] * 5


def test_runs_without_a_metric_can_be_left_out(table, tmp_path):
    table.loc[3, "loss"] = np.nan
    with pytest.warns(UserWarning, match="1 of 6 runs miss a metric"):
        runs = read_runs(write(table, tmp_path / "runs.csv"), missing="drop")
    assert runs.names == ("1", "2", "3", "5", "6")


def test_a_file_that_is_not_there_is_named(table, tmp_path):
    write(table, tmp_path / "runs.csv")
    with pytest.raises(InputError, match=r"did you mean 'runs\.csv'"):
        read_runs(tmp_path / "run.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_runs(tmp_path / "empty.csv")


def test_runs_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \[2, 3\]: give \[runs, 2\]"):
        Runs(("a", "b"), np.ones((2, 3)) / 3, {})
    with pytest.raises(InputError, match="3 values for 2 runs"):
        Runs(("a", "b"), np.ones((2, 2)) / 2, {"loss": np.ones(3)})
