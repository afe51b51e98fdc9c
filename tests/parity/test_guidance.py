"""Guidance mods within whole KSampler runs, and FreeU on plain tensors, to 1e-5 of max |expected|."""

from functools import partial

import pytest
import torch
from golden_models import Counted

from sigmafield.core.conditioning import Cond
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches.freeu import freeu_features, freeu_v2_features
from sigmafield.recipes.ksampler import ksampler
from sigmafield.recipes.mods import parse_mods

NAMES = {
    "RescaleCFG": "rescale", "RenormCFG": "renorm", "CFGNorm": "cfg_norm", "CFGZeroStar": "zero_star",
    "Mahiro": "mahiro", "TCFG": "tcfg", "APG": "apg", "EpsilonScaling": "epsilon_scaling",
    "TemporalScoreRescaling": "tsr", "FreSca": "fresca",
}  # fmt: skip
FREEU = {"FreeU": freeu_features, "FreeU_V2": freeu_v2_features}
# float32 differs this much from float64 here: latents grow to 180, and the reference has float32 singular vectors
LOOSE = {"apg(eta=-0.5, norm_threshold=15.0, momentum=0.2)": 5e-5, "tcfg()": 1.2e-5}


def line(patches, **more):
    """The mods of a case in the text form of a recipe."""
    terms = []
    for node, inputs in patches:
        given = {**inputs, **more.get(node, {})}
        terms.append(f"{NAMES[node]}({', '.join(f'{name}={value!r}' for name, value in given.items())})")
    return "+".join(terms)


def samples(case, net, text, batch_index=None):
    positive, negative = (Cond(torch.full((1, 2, 3), case[key])) for key in ("positive", "negative"))
    batch = case["shape"][0] if batch_index is None else len(batch_index)
    return ksampler(
        Guider(net.model, positive, negative, case["cfg"], parse_mods(text)),
        net.sampling,
        net.format,
        torch.zeros(batch, *case["shape"][1:]),
        batch_index=batch_index,
        schedule=case["scheduler"],
        **{key: case[key] for key in ("seed", "steps", "sampler")},
    ).samples


def compare(case, name, ours, worst, what, tolerance=1e-5):
    expected = case.expected(name)
    error = float((ours - expected).abs().max() / expected.abs().max())
    worst[what] = max(worst.get(what, 0.0), error)
    assert error <= tolerance, f"{name} differ by {error:.2e} of max |expected|"


def quick(case):
    """An ε-network and a flow; of a v-network, whose predictions come back in x0 as well, what works in v."""
    return case["kind"] == "freeu" or case["model"] != "vpred" or case["patches"][0][0] == "RescaleCFG"


@pytest.mark.quick(which=quick)
def test_guidance(guidance_case, reference, worst):
    case = guidance_case
    if case["kind"] == "freeu":
        h, skip = FREEU[case["node"]](
            case.tensor(case["h"]), case.tensor(case["skip"]), case["model_channels"], **case["inputs"]
        )
        compare(case, "h", h, worst, f"guidance {case['node']}")
        compare(case, "skip", skip, worst, f"guidance {case['node']}")
        return
    text, what = line(case["patches"]), "guidance " + "+".join(NAMES[node] for node, _ in case["patches"])
    ours = samples(case, Counted(case["model"], reference), text)
    compare(case, "samples", ours, worst, what, LOOSE.get(text, 1e-5))


def one_of_each(case):
    """One model with guidance, under every mod; a flow where mods are combined."""
    if case["kind"] == "freeu":
        return True
    one = case["model"] == ("sd3" if len(case["patches"]) > 1 else "sd15")
    return one and case["cfg"] > 1 and case["sampler"] != "euler"


@pytest.mark.typed_elsewhere
@pytest.mark.quick(which=one_of_each)
def test_a_batch_is_its_samples(guidance_case, reference):
    """Samples together equal each alone with its own draw of the noise: the first and the last of three."""
    case = guidance_case
    if case["kind"] == "freeu":
        h, skip = (case.tensor(case[key]) for key in ("h", "skip"))
        act = partial(FREEU[case["node"]], model_channels=case["model_channels"], **case["inputs"])
        for together, *alone in zip(act(h, skip), *(act(h[k : k + 1], skip[k : k + 1]) for k in range(len(h)))):
            torch.testing.assert_close(together, torch.cat(alone))
        return
    net = Counted(case["model"], reference)
    text = line(case["patches"], Mahiro={"over": "sample"})
    together = samples(case, net, text, [0, 1, 2])
    alone = torch.cat([samples(case, net, text, [k]) for k in (0, 2)])
    torch.testing.assert_close(together[[0, 2]], alone, rtol=0, atol=2e-6 * float(alone.abs().max()))
