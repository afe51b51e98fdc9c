"""The models of the golden vectors: which family each is, and the reference's network as a model."""

from dataclasses import replace

import torch

from sigmafield.core.conditioning import Area, Cond
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.parameterization.families import family
from sigmafield.parameterization.latent_format import latent_format

FAMILIES = {
    "sd15": "SD15", "sdxl": "SDXL", "vpred": "SD20_V", "vpred_zsnr": "SDXL_V_ZSNR", "edm": "SDXL_Playground_2_5",
    "svd": "SVD_img2vid", "sd3": "SD3", "aura": "AuraFlow", "flux": "Flux",
}  # fmt: skip
KINDS = {"sd15": "eps", "sdxl": "eps", "vpred": "v", "vpred_zsnr": "v", "edm": "edm", "svd": "v"}


class Counted:
    """The reference's network for a model, as a model that counts its calls and rows."""

    def __init__(self, name, reference):
        self.family = family(FAMILIES[name])
        self.sampling = self.family.sampling()
        self.format = latent_format(self.family.latent_format)
        self.calls = self.rows = 0
        data = 0.5 if name == "edm" else 1.0

        def forward(module, xs, t, cond):
            self.calls, self.rows = self.calls + 1, self.rows + len(xs)
            kind, c = KINDS.get(name, "flow"), cond.embeds.mean((1, 2))
            return reference.network(kind, xs, self.sampling.levels.sigma(t).float(), c, data)

        self.model = DiffusionModel(name, forward, self.sampling, self.format, (8, 8))

    def cond(self, entry, case):
        made = Cond(torch.full((1, entry.get("tokens", 2), 3), entry["value"]))
        for node, inputs in entry.get("nodes", []):
            made = NODES[node](made, case, **inputs)
        return made


def changed(cond, **values):
    return replace(cond, **values)


NODES = {
    "ConditioningSetArea": lambda c, case, width, height, x, y, strength: changed(
        c, area=Area((height // 8, width // 8), (y // 8, x // 8)), strength=strength
    ),
    "ConditioningSetAreaPercentage": lambda c, case, width, height, x, y, strength: changed(
        c, area=Area((height, width), (y, x), relative=True), strength=strength
    ),
    "ConditioningSetAreaStrength": lambda c, case, strength: changed(c, strength=strength),
    "ConditioningSetTimestepRange": lambda c, case, start, end: changed(c, window=(start, end)),
    "ConditioningSetMask": lambda c, case, mask, strength, set_cond_area: changed(
        c, mask=case.tensor(mask), mask_strength=strength, bounds=set_cond_area == "mask bounds"
    ),
}
