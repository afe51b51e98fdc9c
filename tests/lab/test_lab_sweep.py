"""Sweeps: axes from texts, labelled sheets, images that replay, metrics of any module; and comparisons of images."""

import numpy as np
import polars
import pytest
from PIL import Image

from sigmafield.cli.lab_sweep import axes_of
from sigmafield.lab.columns import Column
from sigmafield.lab.comparison import bands_of, compare, differing, pixels_of
from sigmafield.lab.metrics import METRICS, measured_by, metric_of
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.sweep import Read, axis_of, sweep
from sigmafield.lab.xy_sheet import xy_sheet
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.label import read_label
from sigmafield.recipes.output import recipe_of
from sigmafield.recipes.recipe import Recipe


@pytest.mark.parametrize(
    "text, found",
    [
        ("cfg=1,3.5", ("cfg", [1.0, 3.5])),
        ("steps=5,10", ("steps", [5, 10])),
        ("sampler=euler,dpmpp_2m_sde(eta=0.5, s_noise=1)", ("sampler", ["euler", "dpmpp_2m_sde(eta=0.5, s_noise=1)"])),
        ("paste_back=true,false", ("paste_back", [True, False])),
        ("schedule=none,karras", ("schedule", [None, "karras"])),
    ],
)
def test_axes(text, found):
    assert axis_of(text) == found


@pytest.mark.parametrize(
    "text, message",
    [
        ("cfg", "FIELD=VALUE"), ("cgf=1", "no field 'cgf' that can vary; did you mean cfg"), ("seed=1,2", "--seeds"),
        ("steps=many", "steps must be a whole number; got 'many'"), ("cfg=1,1", "must be different"),
    ],
)  # fmt: skip
def test_axes_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        axis_of(text)


def test_a_field_varies_once(tmp_path):
    (tmp_path / "grid.yaml").write_text("cfg: [1, 2]\n")
    assert axes_of(["steps=1,2"], tmp_path / "grid.yaml") == {"steps": [1, 2], "cfg": [1.0, 2.0]}
    for texts, grid in ((["cfg=1,2", "cfg=3"], None), (["cfg=3"], tmp_path / "grid.yaml")):
        with pytest.raises(ValueError, match="cfg varies twice"):
            axes_of(texts, grid)


def red(images, recipe):
    """Mean of the red values."""
    return float(np.asarray(images[0])[..., 0].mean()) + recipe.cfg


def no_number(images, recipe):
    return "many"


def broken(images, recipe):
    raise RuntimeError("no such colour")


@pytest.mark.parametrize(
    "name, message",
    [("no_number", "must give a number; got 'many'"), ("broken", "has failed: RuntimeError: no such colour")],
)
def test_a_metric_that_fails_is_named(name, message):
    with pytest.raises(ValueError, match=f"the metric {__name__}:{name} {message}"):
        measured_by(f"{__name__}:{name}", [Image.new("RGB", (2, 2))], Recipe("x"))


def test_means_of_values_that_are_not_finite_are_not_compared(tmp_path):
    table = polars.DataFrame({"cfg": [1.0, 2.0], "seed": [0, 0], "red": [float("nan"), 1.0]})
    [found] = Read(("cfg",), {"red": Column("red")}, str(tmp_path)).extremes(table, "red")
    assert found == "red is not a finite number in 1 of 2 rows, so that its means say nothing."


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    axes = {"cfg": [1.0, 4.0], "sampler": ["euler", "dpmpp_2m"]}
    base = Recipe("a red heart", steps=2, width=32, height=32)
    experiment = sweep(base, axes, [5], ["sharpness", f"{__name__}:red"], folder)
    return folder, frame(experiment.run(folder)), experiment


def test_images_are_written_and_replay(swept):
    folder, table, _ = swept
    assert len(table) == 4
    for row in table.to_dicts():
        recipe = read_label(recipe_of(folder / row["image"])).recipe
        assert (recipe.cfg, str(recipe.sampler), recipe.seed) == (row["cfg"], row["sampler"], 5)
        assert row[f"{__name__}:red"] == red([open_image(folder / row["image"])], recipe)


def test_the_sheet_shows_each_image_at_its_place(swept):
    folder, table, experiment = swept
    reading = experiment.read(table)
    sheet = np.asarray(reading.figures["sheet-1"].figure)
    for row in table.to_dicts():
        tile = np.asarray(open_image(folder / row["image"]))
        corners = np.argwhere((sheet[:-31, :-31] == tile[0, 0]).all(-1))
        assert any((sheet[y : y + 32, x : x + 32] == tile).all() for y, x in corners)
    assert any("sharpness" in finding for finding in reading.findings)


def test_sheets_need_images():
    with pytest.raises(ValueError, match="at least one image"):
        xy_sheet({}, ["a"], ["b"])


def test_metrics_tell_images_apart():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    flat, white = Image.new("RGB", (16, 16), (128, 128, 128)), Image.new("RGB", (16, 16), "white")
    found = {name: [metric([each], Recipe("x")) for each in (noise, flat, white)] for name, metric in METRICS.items()}
    assert found["sharpness"][0] > 0.1 and found["sharpness"][1] == found["contrast"][1] == 0
    assert found["saturated"][2] == 1 and found["saturated"][1] == 0 and found["brightness"][2] == pytest.approx(1)
    assert found["colourfulness"][0] > 0.1 and found["colourfulness"][1] == pytest.approx(0)
    for name, message in (("sharpnes", "did you mean sharpness"), ("math:nothing", "there is no metric math:nothing")):
        with pytest.raises(ValueError, match=message):
            metric_of(name)


def test_comparison_of_pixels_and_frequencies():
    """A wave of 4 cycles is found in its octave; equal images differ in nothing."""
    x = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    flat = np.full((32, 32, 3), 0.5)
    wave = flat + 0.1 * np.sin(4 * x)[None, :, None]
    bands = bands_of(wave, flat)
    assert bands[4] == pytest.approx(2) and bands[0] == pytest.approx(0, abs=1e-12)
    assert pixels_of(wave, flat)["rms"] == pytest.approx(0.1 / 2**0.5)
    assert pixels_of(flat, flat)["psnr"] == np.inf


def test_comparison_of_runs(swept):
    """Runs that differ in cfg alone start alike and part in the first step."""
    folder, table, _ = swept
    paths = [folder / row["image"] for row in table.to_dicts() if row["sampler"] == "euler"]
    recipes = [read_label(recipe_of(path)).recipe for path in paths]
    found = compare(open_image(paths[0]), open_image(paths[1]), tuple(recipes))
    assert found.recipe == {"cfg": (1.0, 4.0)} == differing(*recipes)
    assert len(found.path) == 3 and found.path[0] == 0 < found.path[1]
    assert any("in step 1 of 2" in sentence for sentence in found.sentences())
    with pytest.raises(ValueError, match="one size"):
        compare(Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2)), tuple(recipes))
