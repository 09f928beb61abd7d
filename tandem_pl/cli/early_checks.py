"""Mistakes that are found before torch and lightning are imported: files and names of options.

The importing takes seconds. What is not found here, jsonargparse or a constructor will find.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.public_names import KEYS, PATHS
from tandem_pl.yaml_files import parse_yaml, read_yaml

from .run_folder import check_checkpoint_path
from .signatures import OURS, Signature, signature

TRAINER = "lightning.pytorch.Trainer"
ROOT = ["config", "seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only"]
MORE = {"validate": ["verbose"], "test": ["verbose"], "predict": ["return_predictions"], "fit": []}
FLAGS = ("print_config", "help", "untrained", "print_shtab")
SPECIAL = ("last", "best", "hpc", "registry")  # values of ckpt_path that Lightning resolves
DOMAIN_MAPS = ("domains", "train", "target", "test")  # options: domain -> path
MAPS = (*DOMAIN_MAPS, "weights", "target_weights", "caps", "config")  # replaced as a whole
#: a file of data by its name, and no pattern or address
DATA_FILE = re.compile(
    r"(last:)?(?!\w+://)[^*?\[\]{}$]+\.(txt|md|jsonl?|csv|tsv|parquet|ya?ml|npz|bin)(\.(gz|zst))?"
)


def check_arguments(verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of a command, from its files and options, without defaults.

    Raises:
        InputError: a file is missing, or a class or an option does not exist.
    """
    content: dict[str, Any] = {}
    options = list(pairs(arguments))
    for key, value in options:
        if key == "config":
            content = merge(content, read(value))
    for key, value in options:
        if key != "config":
            assign(content, key, value)
    check_tree(verb, content)
    return content


def pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line with their values, which are "" for a flag."""
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            file = Path(argument).suffix in (".yaml", ".yml")
            hint = f"did you mean --config {argument}?" if file else "options start with --."
            raise InputError(f"unexpected argument {argument!r}: {hint}")
        key, equals, value = argument.removeprefix("--").partition("=")
        if not equals and remaining and not remaining[0].startswith("--"):
            value = remaining.pop(0)
        yield key, value


def read(path: str) -> dict[str, Any]:
    """Return the content of a configuration file, or of YAML in place of a file's name."""
    if path.lstrip().startswith("{") or "\n" in path:
        return dict(parse_yaml(path) or {})
    check_is_file(path)
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""
        raise InputError(f"--config {path} is not YAML{where}.") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} is not a map of options, such as trainer: and data:.")
    return content


def check_is_file(path: str) -> None:
    """Raise an error if a configuration file does not exist or is a folder."""
    file = Path(path)
    if file.is_dir():
        raise InputError(f"--config {path} is a folder: give a YAML file.")
    if not file.is_file():
        raise InputError(f"--config {path} does not exist: {nearest(file)}")


def nearest(file: Path) -> str:
    """Return a hint at a file with nearly the same name, beside it or in the same folder."""
    folder = file.parent if file.parent.is_dir() else Path()
    hint = did_you_mean(file.name, [f.name for f in folder.iterdir()], 0.75)
    from_ = "" if file.is_absolute() else f" (looked from {Path.cwd()})"
    return hint.strip() or f"give a path that does{from_}."


def merge(old: Any, new: Any) -> Any:
    """Return a configuration over another; a new class drops the options of the old one."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if new.get("class_path", old.get("class_path")) != old.get("class_path"):
        return new
    merged = {k: v if k in MAPS else merge(old.get(k), v) for k, v in new.items()}
    return {**old, **merged}


def assign(content: dict[str, Any], key: str, value: str) -> None:
    """Set an option of the command line, such as `model.network.config.hidden_size`."""
    *parents, last = key.removesuffix("+").split(".")
    node: Any = content
    for name in parents:
        node = _child(node, name)
        if not isinstance(node, dict):
            return
    if isinstance(node.get("class_path"), str) and last not in ("class_path", "init_args"):
        node = node.setdefault("init_args", {})
    try:
        loaded = parse_yaml(value)
    except (yaml.YAMLError, InputError):  # the parser will say
        loaded = value
    if last in KEYS - {"class_path"} and isinstance(loaded, str):
        loaded = {"class_path": loaded}
    if key.endswith("+"):
        before = node.get(last) if isinstance(node.get(last), list) else []
        loaded = [*before, *(loaded if isinstance(loaded, list) else [loaded])]
    elif last == "callbacks" and isinstance(loaded, dict):
        loaded = [loaded]
    node[last] = loaded if last in MAPS else merge(node.get(last), loaded)


def _child(node: dict[str, Any], name: str) -> Any:
    """Return the map in which an option of `name` is set; of a list, its last item."""
    if isinstance(node.get("class_path"), str) and name not in ("class_path", "init_args"):
        node = node.setdefault("init_args", {})
    value = node.get(name)
    if isinstance(value, list) and value:
        value = value[-1]
    elif isinstance(value, str) and name in KEYS:
        value = node[name] = {"class_path": value}
    elif not isinstance(value, dict):
        value = node[name] = {}
    return value


def check_tree(verb: str, content: Mapping[str, Any]) -> None:
    """Raise an error for the first wrong name or missing file of a configuration."""
    known = [*ROOT, *MORE[verb]]
    for key in content:
        if key not in known and key not in FLAGS:
            hint = did_you_mean(key, known) or f"the options are {', '.join(known)}; "
            raise InputError(f"unknown option --{key}: {hint}see `tandem {verb} --help`.")
    trainer = signature(TRAINER)
    for key in content.get("trainer") or {}:
        if trainer:
            check_option(trainer, key, "trainer")
    for key in ("trainer", "model", "data"):
        check_classes(content.get(key), key)
    path = content.get("ckpt_path")
    if isinstance(path, str) and not path.startswith(SPECIAL):
        check_checkpoint_path(path, "model" in content)
    if "print_config" not in content:
        check_files(content.get("data"))
    check_language_models(content.get("model"))


def check_classes(value: Any, where: str, listed: Sequence[str] = ()) -> None:
    """Check the names of classes, beside `listed` ones of a list, and of their options."""
    if isinstance(value, list):
        listed = [str(item.get("class_path")) for item in value if isinstance(item, dict)]
        for item in value:
            check_classes(item, where, listed)
        return
    if isinstance(value, str) and where.rpartition(".")[2] in KEYS:
        check_class(value, where, sure=False)
    if not isinstance(value, dict):
        return
    path, options = value.get("class_path"), value.get("init_args")
    if isinstance(path, str):
        check_class(path, where)
        known = signature(PATHS.get(path, path))
        value = options if isinstance(options, dict) else {}
        if known is not None:
            for name in value:
                check_option(known, name, where, listed)
    for name, item in value.items():
        check_classes(item, f"{where}.{name}")


def check_class(path: str, where: str, sure: bool = True) -> None:
    """Raise an error if a class is not there, with the nearest public name.

    Not `sure` is a text that may be something else.
    """
    if not re.fullmatch(r"[a-zA-Z_][\w.]*", path):
        return
    path = PATHS.get(path, path)
    module, _, name = path.rpartition(".")
    top = path.partition(".")[0]
    if signature(path) is not None:
        return
    others = not module or (top != OURS and _exists(top))  # Lightning's, or a user's own
    near = next((known for known in PATHS if known.lower() == name.lower()), name)
    hint = did_you_mean(near, PATHS, 0.85 if others else 0.6)
    if others and not hint:  # made in a way that the source does not show
        return
    if hint or top == OURS:
        hint = hint.strip() or "see `tandem fit --help` for the names."
        raise InputError(f"{where}={path!r} is unknown: {hint}")
    if not sure:
        return
    here = f"{top}.py" if Path(f"{top}.py").is_file() else f"{top}/" if Path(top).is_dir() else ""
    advice = "install it, or set PYTHONPATH to the folder it lies in."
    if here:
        advice = f"for {here} of this folder, type `python -m tandem_pl` in place of `tandem`."
    raise InputError(f"{where}={path!r}: Python finds no module {top!r}: {advice}")


def check_option(known: Signature, name: str, where: str, listed: Sequence[str] = ()) -> None:
    """Raise an error if a class or function has no such option, with the nearest."""
    if name in known.options or not known.complete or not isinstance(name, str):
        return
    owner = known.path.rpartition(".")[2]
    hint = did_you_mean(name, known.options)
    if not hint and where == "trainer.callbacks":
        hint = other_callback(name, listed)
    if not hint:
        hint = f"it has {', '.join(known.options)}." if known.options else "it has none."
    raise InputError(f"{where}.{name}: {owner} has no option {name!r}: {hint.strip()}")


def other_callback(name: str, listed: Sequence[str]) -> str:
    """Return a hint at an option of nearly this name: of a listed callback, or of one of ours."""
    ours = [path for path in PATHS.values() if path.startswith(f"{OURS}.callbacks.")]
    for paths in ([PATHS.get(path, path) for path in listed], ours):
        options = {key: path for path in paths if (s := signature(path)) for key in s.options}
        if hint := did_you_mean(name, options, 0.8):
            owner = options[hint.split("'")[1]].rpartition(".")[2]
            return (
                f"{hint[:-2]} of {owner}? Set it in the YAML file: an option on the command line "
                "is of the last callback of the list."
            )
    return ""


def check_language_models(value: Any) -> None:
    """Check the fields of language models, by `transformers`, which takes two seconds to import."""
    if not isinstance(value, dict):
        return
    path, options = value.get("class_path"), value.get("init_args")
    if path in ("causal_language_model", PATHS["causal_language_model"]) and options:
        if options.get("pretrained") is None and "model_type" in options:
            from tandem_pl.networks.language_models import check_fields

            check_fields(options["model_type"], options.get("config") or {})
        return
    for item in value.values():
        check_language_models(item)


def check_files(data: Any) -> None:
    """Raise an error if a file that the data names by its whole name does not exist."""
    options = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(options, dict):
        return
    path = str(data.get("class_path"))
    ours = PATHS.get(path, path).startswith(OURS)
    for key, value in options.items():
        where = f"data.{key}"
        if isinstance(value, str) and DATA_FILE.fullmatch(value):
            check_file(value, where)
        elif key in DOMAIN_MAPS and isinstance(value, dict) and ours:
            for name, paths in value.items():
                for path in paths if isinstance(paths, list) else [paths]:
                    if isinstance(path, str) and not re.search(r"[*?\[\]{}$]|://", path):
                        check_file(path, f"{where}.{name}")


def check_file(text: str, where: str) -> None:
    """Raise an error if a path does not exist, nor the .bin of a Megatron-LM prefix."""
    path = Path(text.removeprefix("last:")).expanduser()
    if path.exists() or Path(f"{path}.bin").exists():
        return
    if where.endswith(".weights"):
        from tandem_pl.mixture import Mixture  # with numpy

        Mixture.load(path)
    raise InputError(f"{where}={text!r} does not exist: {nearest(path)}")


def _exists(module: str) -> bool:
    """Return whether Python has a module of this name, also one that was made by hand."""
    return module in sys.modules or find_spec(module) is not None
