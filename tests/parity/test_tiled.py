"""MultiDiffusion, Mixture of Diffusers and SpotDiffusion in whole runs, against the reference's numbers; to 1e-4."""

import torch
from test_engine import Counted, compare

from sigmafield.core.conditioning import Cond
from sigmafield.core.geometry import mixture_gaussian, uniform
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.ksampler import ksampler, ksampler_sigmas
from sigmafield.spatial.tiled_model import ORDERS, Spot, Tiled, grid_cover, spot_shifts

WINDOW = {"MultiDiffusion": uniform, "Mixture of Diffusers": mixture_gaussian}
POSITIVE, NEGATIVE = 0.5, -0.3


def wrapped(case, model, levels):
    tile = case["tile_height"] // 8, case["tile_width"] // 8
    overlap, batch = case["tile_overlap"] // 8, case["tile_batch_size"]
    if case["kind"] == "tiled":
        return Tiled(model, grid_cover(tile, overlap), WINDOW[case["method"]], batch)
    sigmas = ksampler_sigmas(levels, case["sampler"], case["scheduler"], case["steps"])
    shifts = spot_shifts(case["steps"], tile, case["shift_seed"], ORDERS[case["shift_method"]])
    return Spot(model, tile, sigmas, shifts, overlap, batch)


def test_tiled(tiled_case, reference, worst):
    case, shapes = tiled_case, []
    net = Counted(case["model"], reference)

    def model(x, sigma, conds, ctx):
        shapes.append(list(x.shape))
        return net.model(x, sigma, conds, ctx)

    positive, negative = (Cond(torch.full((1, 2, 3), value)) for value in (POSITIVE, NEGATIVE))
    out = ksampler(
        Guider(wrapped(case, model, net.sampling.levels), positive, negative, case["cfg"]),
        net.sampling,
        net.format,
        torch.zeros(case["shape"]),
        schedule=case["scheduler"],
        **{key: case[key] for key in ("seed", "steps", "sampler")},
    )
    error = compare(out.samples, case.expected("samples"), 1e-4, "samples")
    name = f"tiled {case['sampler'] if case['kind'] == 'tiled' else 'SpotDiffusion ' + case['shift_method']}"
    worst[name] = max(worst.get(name, 0.0), error)
    if case["kind"] == "tiled":
        calls = len(case["first_call_shapes"])
        assert sorted(shapes[:calls]) == sorted(case["first_call_shapes"])
        assert len(shapes) == calls * case["steps"]
