"""A typed function as a verb: spellings that are accepted, and mistakes in one sentence."""

import subprocess
import sys

import pytest

from tandem_pl.cli.arguments import one_sentence, run_verb
from tandem_pl.errors import InputError


def verb(
    run: str,
    seeds: list[int] | None = None,
    block_size: int = 1,
    overwrite: bool = False,
    domains: dict[str, str] | None = None,
) -> None:
    """A verb of these tests."""
    seen.append((run, seeds, block_size, overwrite, domains))


seen = []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("r", ("r", None, 1, False, None)),
        ("r --seeds 0 1 --block-size 2", ("r", [0, 1], 2, False, None)),
        ("r --seeds=3", ("r", [3], 1, False, None)),
        ("r --seeds [4,5]", ("r", [4, 5], 1, False, None)),
        ("--overwrite r", ("r", None, 1, True, None)),
        ("--overwrite false r", ("r", None, 1, False, None)),
        ("r --domains.a-b c-d --domains.e=f", ("r", None, 1, False, {"a-b": "c-d", "e": "f"})),
    ],
)
def test_spellings(arguments, expected):
    run_verb(verb, arguments.split(), positional=True)
    assert seen.pop() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: run: see `tandem verb --help`."),
        ("r --blocksize 2", "unknown option --blocksize: did you mean '--block_size'? see"),
        ("r s", "unrecognized arguments: s: see"),
        ("r --block_size x", "--block_size: expected int, given: x: see"),
        ("r --seeds 0 x", "--seeds: expected int, given: x: see"),
        ("r --domains 3", "--domains: expected --domains.NAME FILE, given: 3: see"),
        ("r --seeds", "expected one argument: see"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(InputError) as refusal:
        run_verb(verb, arguments.split(), positional=True)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not seen


def test_the_value_of_a_nested_option_is_given_alone():
    """jsonargparse adds the whole optimizer to the value."""
    message = """Parser key "model":
      Parser key "optimizer":
          Type Callable expects a function or a callable class: Parser key "lr":
            - Expected a <class 'float'>
            Given value: nan. Got value: Namespace(class_path='A', init_args=Namespace(lr='nan'))"""
    assert one_sentence(message) == "--model.optimizer.lr: expected float, given: nan"


@pytest.mark.parametrize("name", ["prepare", "compare", "export", "report"])
def test_help_needs_no_torch(name):
    code = (
        "import sys, atexit; from tandem_pl.cli import main; "
        "atexit.register(lambda: print(sorted({'torch', 'lightning'} & set(sys.modules)))); "
        f"main([{name!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: tandem {name} ")
    assert done.stdout.endswith("[]\n")
