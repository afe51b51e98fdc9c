"""A device in another process, without a cluster: what it sends suffices to go on with a job on another one."""

from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from engines import network_waits, recipe, workflow
from PIL import Image

import sigmafield as sf
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.label import read_label
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.remote_host import Handed, Host
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows
from small_network import few_channels, read_small

SETTINGS = EngineSettings(save_every=0.0, preview_every=0.0, active=2)
ENDS = ("done", "stopped", "failed")
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """The embedded model has few channels here: each test waits for the steps at which it acts."""
    with few_channels(cache(read_small)):
        yield


@pytest.fixture(scope="module")
def hosts():
    """Two devices; each has its own folder."""
    made = [Host(SETTINGS, "cpu", Workflows()) for _ in range(2)]
    yield made
    for host in made:
        host.close()


def handed(kind, request):
    """A job as it is handed over at its start."""
    record = JobRecord("a", kind, request, "running")
    if kind == "workflow":
        return Handed(record)
    sealed, inputs = read_inputs(Recipe.from_plain(request))
    return Handed(record, sealed, inputs, replace(sealed, prompt="as clients name it"))


def happenings(host, job):
    """What happens to a job until it ends."""
    host.begin(job)
    found = []
    while not found or found[-1].kind not in ENDS:
        found += host.news("a", None).happened
    return found


def paused(host, job, after):
    """What happens to a job which is paused after some steps."""
    with network_waits(after) as go:
        host.begin(job)
        found = []
        while not any(each.point.step == after for each in found):
            found += host.news("a", None).happened
        found += host.news("a", "paused").happened
        go.set()
        while found[-1].kind not in ENDS:
            found += host.news("a", "paused").happened
    return found


@pytest.mark.parametrize("kind, request_", [("recipe", recipe(steps=STEPS)), ("workflow", workflow(steps=STEPS))])
def test_a_job_goes_on_on_another_device(hosts, kind, request_):
    """From its last state: the pixels are those of a job that was left alone, and each step is taken once."""
    whole = happenings(hosts[0], handed(kind, request_))
    first = paused(hosts[0], handed(kind, request_), after=2)
    assert first[-1].kind == "stopped"
    saved = [each for each in first if each.kind == "saved"][-1]
    second = happenings(
        hosts[1], replace(handed(kind, request_), state=(saved.point.step, saved.data), outputs=saved.outputs)
    )
    steps = [each.point.step for each in (*first, *second) if each.kind == "stepped"]
    assert steps == [each.point.step for each in whole if each.kind == "stepped"] == list(range(1, STEPS + 1))
    assert whole[-1].kind == second[-1].kind == "done"
    assert list(whole[-1].outputs) == list(second[-1].outputs) != []
    for name, data in whole[-1].outputs.items():
        images = [np.asarray(Image.open(BytesIO(each))) for each in (data, second[-1].outputs[name])]
        assert (images[0] == images[1]).all()


def test_images_say_what_clients_named(hosts):
    ended = happenings(hosts[0], handed("recipe", recipe(steps=1)))[-1]
    carried = read_label(Image.open(BytesIO(ended.outputs["0.png"])).info["sigmafield"])
    assert carried.recipe.prompt == "as clients name it"
    alone = sf.execute(sf.open_job(Recipe.from_plain(recipe(steps=1)), sf.load("tiny", device="cpu"))).images[0][0]
    assert (np.asarray(Image.open(BytesIO(ended.outputs["0.png"]))) == np.asarray(alone)).all()


def test_a_failure_is_one_line(hosts):
    ended = happenings(hosts[0], handed("recipe", recipe(width=66, height=64)))[-1]
    assert ended.kind == "failed" and "width must be a multiple of 4" in ended.error and "\n" not in ended.error
