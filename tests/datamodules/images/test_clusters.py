import csv
import json
import re
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from image_helpers import make_data
from PIL import Image

from tandem_pl.datamodules.images import features
from tandem_pl.datamodules.images.features import histogram
from tandem_pl.errors import InputError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210)}


def write_images(root, each=20):
    """Write images of three colours, with noise; classes are cat (red, green) and dog (blue)."""
    draw = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        folder = root / ("dog" if colour == "blue" else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.clip(np.array(value) + draw.normal(0, 8, (12, 12, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{colour}{number:02}.png")
    return str(root)


def make(path, tmp_path, **options):
    cache = {"cache_dir": str(tmp_path / "cache"), "hold_out": ["all"], "test_fraction": 0.1}
    data = make_data({"all": path}, **cache, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup()
    return data


def colours(images):
    names = [images.source.place(int(row)) for row in images.rows]
    return {re.search("(red|green|blue)", name)[0] for name in names}


@pytest.mark.parametrize("cluster", [3, "auto"])
def test_images_of_one_colour_are_a_domain(cluster, tmp_path):
    data = make(write_images(tmp_path / "all", each=40), tmp_path, cluster=cluster)
    found = [colours(images) for images in data.train_sets.values()]
    assert sorted(map(sorted, found)) == [["blue"], ["green"], ["red"]]
    assert list(data.target_sets) == list(data.test_sets) == ["all"]
    sizes = sum(map(len, data.train_sets.values())) + len(data.target_sets["all"])
    assert sizes + len(data.test_sets["all"]) == 120
    (dog,) = (name for name, images in data.train_sets.items() if colours(images) == {"blue"})
    assert dog == "dog"


def test_a_domain_that_cannot_be_divided_stays_one(tmp_path):
    paths = {
        "many": write_images(tmp_path / "many", each=40),
        "few": write_images(tmp_path / "few", each=1),
    }
    data = make_data(paths, cluster="auto", cache_dir=str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup()
    assert len(data.train_sets["few"]) == 3
    assert (
        sum(name.startswith("many/") for name in data.train_sets) == len(data.train_sets) - 1 == 3
    )


def test_target_images_have_shares_of_the_clusters(tmp_path):
    """Two clusters are of cats, so a target cat may be in either."""
    data = make(write_images(tmp_path / "all", each=40), tmp_path, cluster=3, target_fraction=0.2)
    target = data.target_sets["all"]
    shares = data.target_clusters["all"]
    assert list(shares) == list(data.train_sets)
    for name, images in data.train_sets.items():
        (colour,) = colours(images)
        count = sum(colour in target.source.place(int(row)) for row in target.rows)
        assert shares[name] == pytest.approx(count / len(target), abs=1e-6)
    (page,) = (tmp_path / "cache" / "images").glob("clusters-*/clusters.html")
    assert "<th>all: share</th>" in page.read_text()


def test_the_page_has_a_sheet_of_each_cluster(tmp_path):
    make(write_images(tmp_path / "all"), tmp_path, cluster=3)
    (page,) = (tmp_path / "cache" / "images").glob("clusters-*/clusters.html")
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "54 images" not in text.split("<table>")[1]
    assert "http" not in text


def test_the_listing_has_every_image_and_is_in_the_record(tmp_path):
    data = make(write_images(tmp_path / "all", each=40), tmp_path, cluster=3)
    (folder,) = (tmp_path / "cache" / "images").glob("clusters-*")
    assert data.record["clusters"] == str(folder)
    with (folder / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, images in data.train_sets.items():
        places = {images.source.place(int(row)) for row in images.rows}
        assert {r["document"] for r in rows if r["domain"] == name and r["similarity"]} == places
    assert len(rows) == sum(map(len, [*data.train_sets.values(), *data.target_sets.values()]))


def test_features_are_kept_and_clusters_are_the_same_again(tmp_path, monkeypatch):
    path = write_images(tmp_path / "all")
    first = make(path, tmp_path, cluster=3)
    monkeypatch.setattr(features, "histogram", None)
    second = make(path, tmp_path, cluster=3, num_workers=2)
    assert list(first.train_sets) == list(second.train_sets)
    for name, images in first.train_sets.items():
        assert np.array_equal(images.rows, second.train_sets[name].rows)
    assert first._identity() == second._identity()


def test_edges_tell_images_of_one_colour_apart():
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = stripes[:, 2::8] = stripes[:, 3::8] = 255
    upright, lying = Image.fromarray(stripes), Image.fromarray(stripes.T)
    assert histogram(upright) @ histogram(upright) == pytest.approx(1, abs=1e-5)
    assert histogram(upright) @ histogram(lying) < 0.6
    assert np.isfinite(histogram(Image.new("L", (1, 1)))).all()


def test_a_timm_network_in_a_folder_gives_features(tmp_path):

    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "network"
    folder.mkdir()
    network = timm.create_model("test_resnet", num_classes=4)
    save_file(network.state_dict(), folder / "model.safetensors")
    settings = {**network.pretrained_cfg, "num_classes": 4}
    about = {"architecture": "test_resnet", "num_classes": 4, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(about))
    describe = features.open_network(str(folder))
    vector = describe(Image.new("RGB", (20, 20), "red"))
    assert vector.shape == (network.num_features,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_clustered_is_refused(tmp_path):
    path = write_images(tmp_path / "all", each=5)
    with pytest.raises(InputError, match="cluster=50 needs more images than the"):
        make(path, tmp_path, cluster=50)
    with pytest.raises(InputError, match="cannot be loaded as a timm network"):
        make(path, tmp_path, cluster=2, embedder=str(tmp_path))
    with pytest.raises(InputError, match="neither a number nor auto"):
        make(path, tmp_path, cluster="some")


def test_a_missing_network_is_refused_although_features_are_in_the_cache(tmp_path):
    path = write_images(tmp_path / "all", each=5)
    make(path, tmp_path, cluster=2)
    for embedder in ("missing", "e.npy", str(tmp_path)):
        with pytest.raises(InputError, match="cannot be loaded as a timm network"):
            make(path, tmp_path, cluster=2, embedder=embedder)


def test_features_of_a_network_are_not_those_of_histograms(tmp_path, monkeypatch):
    path = write_images(tmp_path / "all", each=5)
    make(path, tmp_path, cluster=2)
    opened = []
    monkeypatch.setattr(features, "open_network", lambda folder: opened.append(folder) or histogram)
    monkeypatch.setattr(features, "file_facts", lambda file: b"")
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "config.json").write_text("{}")
    make(path, tmp_path, cluster=2, embedder=str(tmp_path / "network"))
    assert opened


def test_fewer_clusters_than_were_asked_for_are_said(tmp_path):
    path = write_images(tmp_path / "all")
    data = make_data(
        {"all": path}, cache_dir=str(tmp_path / "cache"), cluster=9, smallest_cluster=10
    )
    said = r"9 clusters were asked for; \d with fewer than 10 images or 3 different ones were"
    with pytest.warns(UserWarning, match=rf"into \d domains; see .*html; {said}"):
        data.setup()
