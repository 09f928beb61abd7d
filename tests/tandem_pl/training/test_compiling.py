import pytest
import torch
from helpers import predict_last, small_network
from module_helpers import WIDTH, adamw, fit, make_data, make_reweighting

from tandem_pl import InputError, TandemModule
from tandem_pl.training.compiling import is_compiled

EAGER = {"backend": "eager"}  # traces, and needs no compiler


def broken(graph, inputs):
    raise RuntimeError("no compiler on this machine")


def trained(folder, options, network=None, seed=0, **settings):
    torch.manual_seed(seed)
    module = TandemModule(
        network or small_network(WIDTH), predict_last, adamw, compile=options, **settings
    )
    data, reweighting = make_data(batch_size=4), make_reweighting(3, 2)
    trainer = fit(folder, module, data, reweighting, max_epochs=4)
    return trainer, module, reweighting


def test_compiling_traces_both_twins_once_and_changes_no_number(tmp_path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Linear(WIDTH - 1, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
    ).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, plain, plain_weights = trained(tmp_path / "plain", False, network)
    network.load_state_dict(before)
    torch._dynamo.utils.counters.clear()
    trainer, module, weights = trained(tmp_path / "compiled", EAGER, network)
    assert is_compiled(module.network)
    assert is_compiled(module.reference)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4  # train, eval, sizes
    for name, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])
    assert [row.tolist() for row in weights.trajectory] == [
        row.tolist() for row in plain_weights.trajectory
    ]
    path = tmp_path / "one.ckpt"
    trainer.save_checkpoint(path)
    names = torch.load(path, weights_only=True)["state_dict"]
    assert list(names) == list(plain.state_dict())  # no `_orig_mod`


def test_a_network_that_cannot_be_compiled_trains_without_and_says_so_once(tmp_path) -> None:
    with pytest.warns(UserWarning, match="Sequential cannot be compiled here") as caught:
        trainer, module, _ = trained(tmp_path, {"backend": broken})
    said = [str(one.message) for one in caught if "cannot be compiled" in str(one.message)]
    assert len(said) == 1
    assert "no compiler on this machine" in said[0]
    assert not is_compiled(module.network)
    assert not is_compiled(module.reference)
    assert trainer.global_step == 4 * (3 + 2)


def test_or_stops_where_asked_to(tmp_path) -> None:
    with pytest.raises(InputError, match=r"cannot be compiled here .* set compile to false, or"):
        trained(tmp_path, {"backend": broken, "fallback": False})


def test_an_error_of_the_network_is_not_taken_for_one_of_compiling(tmp_path) -> None:
    class Wrong(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(WIDTH - 1, 1).double()

        def forward(self, inputs):
            raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        trained(tmp_path, EAGER, Wrong())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mod": "x"}, "is not for torch.compile: .*unexpected keyword argument 'mod'"),
        ({"backend": "inductr"}, "is not for torch.compile: .*inductr"),
        ({"mode": "max-autotun"}, "is not for torch.compile: .*max-autotun"),
        ("reduce-overhead", "compile='reduce-overhead' must be true, false, or a map"),
    ],
)
def test_misspelt_options_are_refused(tmp_path, options, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        trained(tmp_path, options)


def test_a_map_without_arguments_compiles_too(tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "tandem_pl.training.mixture_module.compile_in_place",
        lambda network, options: asked.append(options),
    )
    trained(tmp_path, {})
    assert asked == [{}, {}]
