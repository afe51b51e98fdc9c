"""MODEL: a diffusion model with what nodes attach to it, as a value; a node that changes one returns another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from sigmafield.comfyui.conditioning import Entry
from sigmafield.comfyui.tiles import GridTiles, LeafTiles, Shifts
from sigmafield.core.registry import Registry, Spec
from sigmafield.guidance.hooks import Mods
from sigmafield.guidance.registry import Mod, mods_of
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.recipes.mods import MODS
from sigmafield.spatial.inpaint import MaskOf, differential, unchanged


@dataclass(frozen=True, eq=False)
class NodeModel:
    """A diffusion model and what is changed when a guider asks it.

    Args:
        network: The diffusion model, with its sampling.
        guidance: Mods of guidance in the order in which nodes attached them.
        rows: Mods that have no row in the table of mods, such as tiles; `guidance` names them.
        empty: The conditioning of an empty prompt, for `perp_neg`.
        differential: Strength of differential diffusion; None: masks are the same at every step.
        tiles: What is shown to the network at a time; None: the whole latent.
        shifts: How SpotDiffusion shifts its tiles.
        text: The text encoder that it was loaded with, whose layers a LoRA may name.
    """

    network: DiffusionModel
    guidance: tuple[Spec, ...] = ()
    rows: Mapping[str, Mod] = field(default_factory=dict[str, Mod], repr=False)
    empty: Sequence[Entry] | None = field(default=None, repr=False)
    differential: float | None = None
    tiles: GridTiles | LeafTiles | None = None
    shifts: Shifts = Shifts()
    text: TextEncoder | None = field(default=None, repr=False)

    def mods(self, seed: int = 0) -> Mods:
        """The hooks of `guidance`, and the tiles, which are nearest to the network.

        Args:
            seed: Of the run, for tiles that are shifted at random.
        """
        found = mods_of(self.guidance, Registry("guidance mod", [*MODS.values(), *self.rows.values()]))
        if self.tiles is None:
            return found
        return replace(found, model=(self.tiles.hook(self.network.latent.factor, seed, self.shifts), *found.model))

    def guided(self, mod: str, **params: Any) -> NodeModel:
        """The model with one more mod; one that replaces D = U + cfg (C − U) takes the place of another such mod.

        Args:
            mod: Name of the mod.
            params: Its parameters.

        Raises:
            ValueError: A parameter is out of range, the model has the mod, or the network has nothing for it to act on.
        """
        return self._checked(Spec(mod, params), {**MODS, **self.rows}[mod].stage == "combine")

    def with_row(self, row: Mod) -> NodeModel:
        """The model with a mod that has no row in the table; it takes the place of one of the same name."""
        others = tuple(spec for spec in self.guidance if spec.name != row.name)
        return replace(self, guidance=others, rows={**self.rows, row.name: row})._checked(Spec(row.name), False)

    def _checked(self, spec: Spec, combines: bool) -> NodeModel:
        kept = [each for each in self.guidance if not (combines and MODS[each.name].stage == "combine")]
        made = replace(self, guidance=(*kept, spec))
        mods = made.mods()
        if mods.fits:
            mods.check(self.network.patchable())
        return made

    def mask_of(self, sigmas: Tensor) -> MaskOf:
        """How a mask changes in a run over these levels."""
        if self.differential is None:
            return unchanged
        return differential(self.network.sampling.levels, sigmas, self.differential)
