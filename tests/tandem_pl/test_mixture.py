import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tandem_pl import InputError, Mixture
from tandem_pl.mixture import resolve_weights

SIZES = {"web": 900, "code": 100, "books": 400}
names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)
magnitudes = st.one_of(
    st.floats(0.0, 1e300),
    st.floats(1e-300, 1e-290),
    st.sampled_from([1e-300, 1e-17, 1e-16, 1.0, 1 / 3, 5e-324]),
)


@st.composite
def weight_maps(draw) -> dict[str, float]:
    domains = draw(names)
    values = draw(st.lists(magnitudes, min_size=len(domains), max_size=len(domains)))
    if max(values) == 0:
        values[0] = 1.0
    return dict(zip(domains, values, strict=True))


@given(weight_maps())
def test_weights_become_shares(weights) -> None:
    mixture = Mixture(weights)
    largest = max(weights.values())
    scaled = [value / largest for value in weights.values()]
    expected = [value / math.fsum(scaled) for value in scaled]
    assert list(mixture.weights) == list(weights)
    assert list(mixture.weights.values()) == pytest.approx(expected, rel=0, abs=1e-15)
    assert abs(math.fsum(mixture.weights.values()) - 1.0) <= 1e-15 * len(weights)
    assert min(mixture.weights.values()) >= 0.0


@given(weight_maps())
def test_a_zero_stays_a_zero(weights) -> None:
    mixture = Mixture(weights)
    assert all(mixture[name] == 0.0 for name, value in weights.items() if value == 0.0)


@given(weight_maps())
def test_normalising_twice_is_normalising_once(weights) -> None:
    once = Mixture(weights)
    assert Mixture(once.weights).weights == once.weights


@given(weight_maps(), st.data())
def test_a_file_reads_back_bit_for_bit(weights, data) -> None:
    values = data.draw(st.lists(magnitudes, min_size=len(weights), max_size=len(weights)))
    values[0] = values[0] or 1.0
    about = {"method": "tandem", "settings": {"free_steps": 3, "caps": None}}
    mixture = Mixture(weights, dict(zip(weights, values, strict=True)), about)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixture.yaml"
        mixture.save(path)
        loaded = Mixture.load(path)
    assert loaded.array.tobytes() == mixture.array.tobytes()
    assert loaded.average_array.tobytes() == mixture.average_array.tobytes()
    assert loaded.domains == mixture.domains
    assert loaded.about == about


@pytest.mark.parametrize("tiny", [1e-300, 1e-20])
def test_a_tiny_share_keeps_its_size(tiny) -> None:
    """Making the sum exact must not move a share of 1e-20 by 1e-17."""
    weights = {"a": 1.0, "b": 0.5, "c": 1 / 3, "tiny": tiny}
    expected = tiny / math.fsum(weights.values())
    assert Mixture(weights)["tiny"] == pytest.approx(expected, rel=1e-9, abs=0)


def test_a_file_is_plain_yaml_in_the_order_of_the_domains(tmp_path) -> None:
    Mixture({"b": 3, "a": 1}, {"b": 1, "a": 1}, {"steps": 7}).save(tmp_path / "m.yaml")
    content = yaml.safe_load((tmp_path / "m.yaml").read_text())
    assert content == {
        "weights": {"b": 0.75, "a": 0.25},
        "average": {"b": 0.5, "a": 0.5},
        "steps": 7,
    }
    assert list(content["weights"]) == ["b", "a"]


def test_without_an_average_it_is_the_weights() -> None:
    assert Mixture({"a": 3, "b": 1}).average == {"a": 0.75, "b": 0.25}


def test_a_hand_written_file_needs_only_weights(tmp_path) -> None:
    (tmp_path / "m.yaml").write_text("weights: {web: 2, 7: 6}\n")
    assert Mixture.load(tmp_path / "m.yaml").weights == {"web": 0.25, "7": 0.75}


def test_facts_about_a_mixture_cannot_replace_its_weights(tmp_path) -> None:
    about = {"steps": 7, "weights": {"a": 1, "b": 1}}
    Mixture({"a": 3, "b": 1}, about=about).save(tmp_path / "mixture.yaml")
    read = Mixture.load(tmp_path / "mixture.yaml")
    assert read.weights == {"a": 0.75, "b": 0.25}
    assert read.about == {"steps": 7}


def test_no_file_is_left_when_writing_fails(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        Mixture({"a": 1}).save(tmp_path / "mixture.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "mixture.yaml"
    Mixture({"a": 1, "b": 3}).save(path)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        Mixture({"a": 1, "b": 1}).save(path)
    assert Mixture.load(path).weights == {"a": 0.25, "b": 0.75}
    assert list(tmp_path.iterdir()) == [path]


# ---- algebra ----


def test_uniform_proportional_and_temperature() -> None:
    assert list(Mixture.uniform("abcd").weights.values()) == [0.25] * 4
    proportional = Mixture.proportional({"a": 90, "b": 10})
    assert proportional.weights == pytest.approx({"a": 0.9, "b": 0.1})
    half = Mixture.temperature({"a": 900, "b": 100}, 2.0)
    assert half.weights == pytest.approx({"a": 0.75, "b": 0.25})  # 30 : 10
    flat = Mixture.temperature({"a": 900, "b": 1}, 1e9)
    assert flat.weights == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-6)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_temperature_is_refused(tau) -> None:
    with pytest.raises(InputError, match="must be a positive number, such as temperature:2"):
        Mixture.temperature({"a": 1}, tau)


def test_tempering_keeps_zero_at_zero_and_stands_small_tau() -> None:
    assert Mixture({"a": 0, "b": 1, "c": 4}).tempered(2.0).weights == pytest.approx(
        {"a": 0, "b": 1 / 3, "c": 2 / 3}
    )
    assert Mixture({"a": 1, "b": 2}).tempered(1e-3).weights == pytest.approx({"a": 0, "b": 1})


def test_mix_goes_by_name_and_not_by_place() -> None:
    mixed = Mixture({"a": 1, "b": 0}).mix(Mixture({"b": 1, "a": 0}), 0.25)
    assert mixed.weights == {"a": 0.75, "b": 0.25}


def test_restrict_normalises_again() -> None:
    assert Mixture({"a": 2, "b": 1, "c": 1}).restrict(["c", "a"]).weights == pytest.approx(
        {"c": 1 / 3, "a": 2 / 3}
    )


def test_project_puts_caps_where_they_are_named() -> None:
    mixture = Mixture({"a": 0.8, "b": 0.2, "c": 0.0}).project(0.1, {"a": 0.5})
    assert mixture.weights == pytest.approx({"a": 0.5, "b": 0.35, "c": 0.15})


def test_entropy_counts_effective_domains() -> None:
    assert Mixture.uniform("abcd").effective_domains() == pytest.approx(4)
    assert Mixture({"a": 1, "b": 0}).effective_domains() == 1.0
    assert Mixture({"a": 3, "b": 1}).entropy() == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )


def test_distance_is_the_share_that_moves() -> None:
    assert Mixture({"a": 1, "b": 0}).distance(Mixture({"b": 1, "a": 0})) == 1.0
    assert Mixture({"a": 3, "b": 1}).distance(Mixture({"b": 3, "a": 1})) == 0.5


@pytest.mark.parametrize("method", ["mix", "distance"])
def test_mixtures_of_other_domains_do_not_combine(method) -> None:
    more = (0.5,) if method == "mix" else ()
    with pytest.raises(InputError, match="says nothing of 'b'"):
        getattr(Mixture({"a": 1, "b": 1}), method)(Mixture({"a": 1}), *more)


def test_equality_looks_at_weights_and_average() -> None:
    assert Mixture({"a": 2, "b": 2}) == Mixture({"a": 1, "b": 1}, about={"steps": 3})
    assert Mixture({"a": 1, "b": 1}) != Mixture({"a": 1, "b": 1}, {"a": 1, "b": 3})
    assert Mixture({"a": 1}) != {"a": 1.0}


# ---- bad weights ----


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, "much", None, [1.0]])
def test_a_weight_that_is_no_share_is_refused(value) -> None:
    with pytest.raises(
        InputError, match=r"weights\['code'\]=.* must be a finite number, 0 or more"
    ):
        Mixture({"web": 1.0, "code": value})


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(InputError, match="weights are all 0"):
        Mixture({"web": 0.0, "code": 0.0})


def test_no_domain_is_refused() -> None:
    with pytest.raises(InputError, match="weights is empty"):
        Mixture({})


def test_an_average_of_other_domains_is_refused() -> None:
    with pytest.raises(InputError, match="average names the unknown domain 'c'"):
        Mixture({"a": 1, "b": 1}, average={"a": 1, "c": 1})


# ---- resolve_weights ----


def shares(spec) -> dict[str, float]:
    mixture = resolve_weights(spec, SIZES)
    assert mixture.domains == tuple(SIZES)
    return mixture.weights


@pytest.fixture
def mixture_file(tmp_path) -> Path:
    """Written with its domains in another order than the data's."""
    path = tmp_path / "mixture.yaml"
    last, average = {"code": 5, "books": 3, "web": 2}, {"books": 1, "code": 1, "web": 2}
    Mixture(last, average).save(path)
    return path


@pytest.mark.parametrize("spec", [None, "uniform"])
def test_no_weights_are_uniform(spec) -> None:
    assert shares(spec) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))


def test_names_of_rules_are_understood() -> None:
    assert shares("proportional") == pytest.approx({"web": 9 / 14, "code": 1 / 14, "books": 4 / 14})
    assert shares("temperature:2") == pytest.approx({"web": 0.5, "code": 1 / 6, "books": 1 / 3})


def test_a_map_goes_by_name() -> None:
    assert shares({"books": 1, "code": 0, "web": 3}) == {"web": 0.75, "code": 0.0, "books": 0.25}


def test_a_mixture_gives_its_average() -> None:
    mixture = Mixture({"web": 1, "code": 0, "books": 0}, {"books": 2, "web": 1, "code": 1})
    assert shares(mixture) == {"web": 0.25, "code": 0.25, "books": 0.5}


def test_a_file_gives_its_average_and_last_gives_the_last(mixture_file) -> None:
    average = {"web": 0.5, "code": 0.25, "books": 0.25}
    assert shares(mixture_file) == average
    assert shares(str(mixture_file)) == average
    assert shares(f"last:{mixture_file}") == {"web": 0.2, "code": 0.5, "books": 0.3}


def test_weights_from_a_file_are_kept_to_the_bit(tmp_path) -> None:
    source = np.random.default_rng(0)
    mixture = Mixture(dict(zip(SIZES, source.uniform(size=3).tolist(), strict=True)))
    mixture.save(tmp_path / "m.yaml")
    assert shares(tmp_path / "m.yaml") == mixture.weights


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"web": 1, "cod": 1, "books": 1}, "unknown domain 'cod': did you mean 'code'"),
        ({"web": 1, "code": 1}, "weights says nothing of 'books'"),
        ({"web": 1, "code": -1, "books": 1}, r"weights\['code'\]=-1 must be a finite number"),
        ({"web": 1, "code": math.nan, "books": 1}, r"weights\['code'\]=nan must be"),
        ({"web": 0, "code": 0, "books": 0}, "weights are all 0"),
        ({}, "weights is empty: give at least one domain a weight"),
        ("temperature:warm", "weights='temperature:warm' needs a number"),
        ("temperature:-2", "must be a positive number"),
        ("proportionnal", "weights='proportionnal' is neither a file nor one of 'uniform'"),
        (3, "weights=3 is not a mixture"),
    ],
)
def test_weights_that_do_not_fit_are_refused(spec, message) -> None:
    with pytest.raises(InputError, match=message):
        resolve_weights(spec, SIZES)


def test_messages_name_the_setting() -> None:
    with pytest.raises(InputError, match=r"^target_weights says nothing of 'code'"):
        resolve_weights({"web": 1, "books": 1}, SIZES, "target_weights")
    partial = resolve_weights({"books": 1, "web": 3}, SIZES, "target_weights", partial=True)
    assert partial.weights == {name: {"books": 0.25, "web": 0.75}.get(name, 0.0) for name in SIZES}
    with pytest.raises(InputError, match=r"^target_weights='nowhere.yaml' is neither"):
        resolve_weights("nowhere.yaml", SIZES, "target_weights")


def test_a_file_of_other_domains_is_refused(tmp_path) -> None:
    Mixture({"web": 1, "code": 1, "papers": 1}).save(tmp_path / "m.yaml")
    with pytest.raises(InputError, match="unknown domain 'papers'"):
        resolve_weights(tmp_path / "m.yaml", SIZES)


def test_every_way_to_write_weights_is_listed() -> None:
    with pytest.raises(InputError) as refusal:
        resolve_weights("proportionnal", SIZES)
    assert str(refusal.value) == (
        "weights='proportionnal' is neither a file nor one of 'uniform', 'proportional', "
        "'temperature:2', 'unimax:4', 'epoch_capped:4', 'target': did you mean 'proportional'? "
        "give one of these, a map of domain to weight, a run's folder or mixture.yaml for its "
        "average weights, or last:PATH for its last ones."
    )


def test_a_runs_folder_stands_for_its_mixture(tmp_path) -> None:
    mixture = Mixture({"web": 3, "code": 1, "books": 1}, average={"web": 1, "code": 1, "books": 2})
    mixture.save(tmp_path / "mixture.yaml")
    assert shares(tmp_path) == shares(str(tmp_path)) == mixture.average
    assert shares(f"last:{tmp_path}") == mixture.weights


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"mixture\.yaml' is neither a file nor one of"):
        resolve_weights(tmp_path / "mixture.yaml", SIZES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- web\n- code\n", "needs a map of domains at 'weights'"),
        (b"", "needs a map of domains at 'weights'"),
        (b"web: 1\ncode: 2\n", "needs a map of domains at 'weights'"),
        (b"weights: [1, 2]\n", "needs a map of domains at 'weights'"),
        (b"weights: {web: 1", "is not a mixture file"),
        (b"\xff\xfe\x00\x80", "is not a mixture file"),
        (b"weights: {web: 1}\naverage: 3\n", "m.yaml"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Mixture.load(tmp_path / "m.yaml")


def test_a_folder_without_mixture_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"is a folder without mixture\.yaml: give the folder of"):
        Mixture.load(tmp_path)
