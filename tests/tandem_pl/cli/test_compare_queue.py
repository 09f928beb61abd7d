"""`tandem compare --cell N` and `--cells`: each cell by a command of its own, on any machine."""

import pytest
from small_study import compare, in_folder, pretend, read, stamps, write_study

from tandem_pl.compare import numbered
from tandem_pl.compare.config import read_comparison
from tandem_pl.compare.locks import lock_cell, lock_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a worker that pretends to train."""
    in_folder(tmp_path, monkeypatch)
    pretend(tmp_path, monkeypatch)
    monkeypatch.setattr(numbered, "POLL_SECONDS", 0.02)
    return tmp_path


def failed(capsys, *options):
    """Return the sentence on stderr of a command that ends with code 2."""
    assert compare(*options) == 2
    return capsys.readouterr().err


def lines(capsys, *options):
    assert compare("--cells", *options) == 0
    return capsys.readouterr().out.splitlines()


def test_numbers_stay_while_cells_get_done(place, capsys):
    write_study(place)
    command = "tandem compare --config study.yaml --cell"
    learn = f"{command} 0  # tandem/seed-0/learn"
    final = f"{command} 1  # tandem/seed-0/final"
    others = [
        f"{command} 2  # uniform/seed-0/final",
        f"{command} 3  # tandem/seed-1/learn",
        f"{command} 5  # uniform/seed-1/final",
    ]
    last = f"{command} 4  # tandem/seed-1/final, needs 3"
    expected = ["# --array=0,2-3,5", learn, *others, "# then --array=1,4"]
    assert lines(capsys) == [*expected, f"{final}, needs 0", last]
    assert not (place / "out").exists()
    assert compare("--cell", 0) == 0
    capsys.readouterr()
    expected = ["# --array=1-3,5", final, *others, "# then --array=4", last]
    assert lines(capsys) == expected
    assert lines(capsys, "--seeds", 1, "--folder", "a b")[1] == (
        "tandem compare --config study.yaml --folder 'a b' --seeds 1 --cell 0  "
        "# tandem/seed-1/learn"
    )


def test_cells_run_one_by_one_and_a_plain_run_makes_the_tables(place, capsys):
    write_study(place, methods=["uniform", "doremi"], seeds=[0])
    two = [read_comparison("study.yaml", folder=folder) for folder in ("out", "other")]
    needs = [one.needs for one in numbered.number_cells(two)]
    assert needs == [set(), {0}, {0, 1}, set(), {3}, {3, 4}]
    assert failed(capsys, "--cell", 2) == (
        "tandem: error: doremi/seed-0/final needs uniform/seed-0/final (--cell 0), "
        "doremi/seed-0/learn (--cell 1), which are not done.\n"
    )
    assert compare("--cell", 0) == 0
    assert "doremi/seed-0/learn (--cell 1), which is not done." in failed(capsys, "--cell", 2)
    assert compare("--cell", 1) == 0
    assert compare("--cell", 2) == 0
    before = stamps(place / "out")
    assert len(before) == 3
    capsys.readouterr()
    assert compare("--cell", 1) == 0  # done elsewhere
    assert capsys.readouterr().out == "doremi/seed-0/learn is done\n"
    assert lines(capsys) == ["# all 3 cells are done"]
    assert "--cell 3: there are the cells 0 to 2." in failed(capsys, "--cell", 3)
    assert compare() == 0
    assert stamps(place / "out") == before
    assert len(read(place / "out/results.csv")) == 3 * 2


def test_a_cell_that_is_run_again_takes_what_needs_it_along(place):
    write_study(place, seeds=[0])
    assert compare() == 0
    (place / "out/tandem/seed-0/learn/result.yaml").unlink()
    assert compare("--cell", 0) == 0
    done = {path.parent.parent.name + path.name for path in stamps(place / "out")}
    assert done == {"uniformfinal", "tandemlearn"}


def test_one_process_a_cell_and_no_other_command_beside_them(place, capsys):
    write_study(place, methods=["uniform"])
    first, second = (one.cell for one in numbered.number_cells([read_comparison("study.yaml")]))
    with lock_folder(place / "out", shared=True), lock_cell(numbered.lock_file(first), "first"):
        assert "uniform/seed-0/final is run by another process" in failed(capsys, "--cell", 0)
        assert compare("--cell", 1) == 0
        assert "is in use by another command" in failed(capsys)
    assert second.result.exists()
    assert compare("--cell", 0) == 0
    with lock_folder(place / "out"):
        assert "is in use by another command" in failed(capsys, "--cell", 0)


def test_a_cell_of_another_machine_may_fail_and_needs_no_workers_here(place, capsys):
    broken = {"method": "tandem", "overrides": {"data": {"broken": True}}}
    methods = {"bad": broken, "uniform": None}
    write_study(place, methods=methods, seeds=[0], workers=9999, devices=[7])
    assert compare("--cell", 2) == 0
    with pytest.raises(SystemExit) as stopped:
        compare("--cell", 0)
    assert stopped.value.code == 1
    assert "cell 0 failed: broken=true was asked for." in capsys.readouterr().err
    assert lines(capsys)[0] == "# --array=0"
    assert "devices=[7] asks for more GPUs than" in failed(capsys)
