"""The diffusion model: a network with its parameterization, latent format and limits, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, ControlNetwork
from sigmafield.core.fitting import spatial
from sigmafield.core.linear import filled, lincomb
from sigmafield.core.process import per_sample
from sigmafield.core.protocols import Call, Ctx, Network
from sigmafield.core.recent import Recent
from sigmafield.models.module_view import Views, check_eager
from sigmafield.models.network_call import acting, by_row, of_tokens, rows, shares, stack
from sigmafield.models.references import references
from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.parameterization.prediction import Sampling

Running = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a module is called: it brings the module to the device, or limits torch's threads."""

Forward = Callable[[Any, Tensor, Tensor, Cond], Tensor]
"""A network as a function of its module: (module, x [B, C, *space] float32, t [B], conditioning of B rows) → F of x's
shape, float32. Where the network has `tokens`, t may be [B, tokens]. The module is the model's, or a view of it for a
call with patches; None where there is not one."""


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """One call of a network, for whoever makes it.

    Args:
        model: Whose network it is.
        module: What `model.forward` is given: the model's module, or a view with patches.
        x: Scaled input [rows, C, *space], float32.
        t: Timestep of each row [rows], or of each of its tokens [rows, tokens].
        cond: The conditioning, of as many rows.
        alone: Whether the module may only be called for these rows as they are: it has patches, or is locked.
        locked: Whether this thread holds a lock of the module until it has the answer; other threads may wait for it.
    """

    model: DiffusionModel
    module: Any
    x: Tensor
    t: Tensor
    cond: Cond
    alone: bool = False
    locked: bool = False

    def __call__(self) -> Tensor:
        """The network's answer F, of x's shape, float32; made in this thread, in the model's context."""
        with self.model.running():
            return self.model.forward(self.module, self.x, self.t, self.cond)


Caller = Callable[[NetworkCall], Tensor]
"""Makes the calls of a network: in place, or together with those of other runs."""


def in_place(call: NetworkCall) -> Tensor:
    """Makes a call at once, in this thread."""
    return call()


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A network with its parameterization: the `Model` that a guider asks.

        D = c_skip x + c_out F(c_in x, t(σ))

    Changing a setting gives another value: `replace(model, sampling=…)`; a guider keeps the one that it was given.
    Threads may share a value: patches act on views of the module that belong to one call, see `models.module_view`.

    Args:
        name: Name for error messages: the directory, file or hub id.
        forward: The raw network F as a function of its module; inputs and answer in float32.
        sampling: Prediction, noise levels and process.
        latent: Format of the network's latents.
        size: Height and width in pixels that the network was trained for.
        module: The torch module that `forward` is given; None where there is not one.
        part: Name of the module among diffusers' parts: unet or transformer.
        family: Row of the table of families; None for a network of none of them.
        schedule: Name of the recommended schedule.
        cfg: Recommended guidance scale; 1 for networks that were distilled with guidance.
        frames: Frames that a video network was trained for; 1 for images.
        patch: Side of the network's patches in latent positions; the latent's sides are multiples of it.
        max_side: Largest height or width in pixels that the network has position embeddings for; None: any.
        shift_at: (height, width) in pixels → the time shift that a flow was trained with at that size; None: fixed.
        concat: Channels that a conditioning's `concat` must have; 5 for an inpainting network's mask and image.
        may_lack_concat: Whether a conditioning may have no `concat`: a network of images to video that draws from text,
            too.
        references: Whether the network can be shown images to edit, see `models.references`.
        controls: Raises ValueError for a control made for another network; None: the network takes no controls.
        image_prompts: Whether `forward` lets the network attend to images, see `core.conditioning.ImagePrompt`.
        device: Where latents and conditionings must be.
        tokens: Size of a token in latent positions along each axis, of a network that takes a timestep for each token;
            None: it takes one for each sample.
        max_rows: Most rows (samples × prompts) of one network call, to save memory; None: all in one call.
        running: Makes the context in which the network is called.
        caller: Makes the network's calls.
    """

    name: str
    forward: Forward
    sampling: Sampling
    latent: LatentFormat
    size: tuple[int, int]
    module: nn.Module | None = field(default=None, repr=False)
    part: str = "unet"
    family: Family | None = None
    schedule: str = "normal"
    cfg: float = 5.0
    frames: int = 1
    patch: int = 1
    max_side: int | None = None
    shift_at: Callable[[tuple[int, int]], float] | None = None
    concat: int = 0
    may_lack_concat: bool = False
    references: bool = False
    controls: Callable[[ControlNetwork], None] | None = None
    image_prompts: bool = False
    device: torch.device = torch.device("cpu")
    tokens: tuple[int, ...] | None = None
    max_rows: int | None = None
    running: Running = nullcontext
    caller: Caller = field(default=in_place, repr=False)
    _stacks: Recent[Cond] = field(default_factory=partial(Recent, 2), init=False, repr=False)
    _known: Recent[list[float]] = field(default_factory=partial(Recent, 256), init=False, repr=False)
    _views: Views = field(default_factory=Views, init=False, repr=False)

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        """Predicts the clean latent for each conditioning, in one network call or as few as `max_rows` allows.

        Args:
            x: Noisy latents [len(conds) · B, C, *space]: the rows of the first conditioning, then of the second, ….
            sigma: One level, or a field: with one level per sample, or of any kind where the network has `tokens`. A
                token's level is the mean over its positions.
            conds: Conditionings with the same controls; controls outside their windows are left out.
            ctx: The step; its patches change the network for this call.

        Returns:
            One latent [B, C, *space] per conditioning.
        """
        n, k = x.shape[0], len(conds)
        cond = self.stacked(sigma, conds, n // k)
        sigma = self._by_row(sigma, n // k, x.shape[2:]).repeat(k, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
        c_in, c_skip, c_out, t = self._coefficients(sigma)
        xs = lincomb(c_in, x).float()
        t = t.to(xs) if isinstance(t, Tensor) else xs.new_full((n,), t)
        roles = tuple(c.role for c in conds for _ in range(n // k))
        parts = shares(n, self.max_rows)
        out: list[Tensor] = []
        for some in parts:
            levels, own = sigma[some] if sigma.ndim else sigma, bool(cond.image_prompts)
            with self.patched(levels, roles[some], ctx, own) as network:
                # all rows are given as they are: who joins calls knows a conditioning that it has met
                asked = (xs, t, cond) if len(parts) == 1 else (xs[some], t[some], rows(cond, some))
                out.append(network(*asked))
        answer = out[0] if len(out) == 1 else torch.cat(out)
        return list(lincomb(c_skip, x, c_out, answer.to(x.dtype)).chunk(k))

    def _coefficients(self, sigma: Sigma) -> Sequence[Tensor] | Sequence[float]:
        """(c_in, c_skip, c_out, t) at σ; those of the latest levels are kept where σ is one number.

        t of a field is [rows], or [rows, tokens] where its levels vary within a row.
        """

        def make() -> list[Tensor]:
            at = sigma.flatten() if sigma.ndim else sigma
            if self.tokens is not None and sigma.ndim and sigma[0].numel() > 1:
                at = of_tokens(sigma, self.tokens)
            return [*self.sampling.prediction(sigma), self.sampling.levels.timestep(at)]

        return make() if sigma.ndim else self._known((), float(sigma), lambda: [float(each) for each in make()])

    def _by_row(self, sigma: Sigma, n: int, space: Sequence[int]) -> Tensor:
        """The levels of each of n samples: [n, 1, …] with one per sample, or [n, 1, *space] that vary within it."""
        if self.tokens is None or per_sample(sigma) is not None:
            return by_row(sigma, n, self.name)
        if any(side % patch for side, patch in zip(space, self.tokens)):
            raise ValueError(f"tokens of {self.tokens} positions do not fill a latent of {tuple(space)}")
        return filled(sigma.expand(-1, 1, *space), n, axis=0)

    def stacked(self, sigma: Sigma, conds: Sequence[Cond], each: int) -> Cond:
        """Several conditionings as one, see `stack`; those without spatial inputs are kept for the next call.

        Args:
            sigma: The level; controls and images outside their windows are left out.
            conds: The conditionings.
            each: Rows of each of them.

        Raises:
            ValueError: The network does not take a conditioning, see `check`.
        """

        def make() -> Cond:
            for cond in conds:
                self.check(cond)
            return stack([acting(sigma, cond, self.sampling.clock) for cond in conds], each)

        if any(spatial(cond) or cond.image_prompts for cond in conds):
            return make()
        return self._stacks(tuple(conds), each, make)

    @property
    def network(self) -> Network:
        """The raw network F on the model's own module."""
        return self._network_on(self.module)

    def _network_on(self, module: Any, alone: bool = False, locked: bool = False) -> Network:
        """The raw network F on a module, see `NetworkCall`."""
        return lambda x, t, cond: self.caller(NetworkCall(self, module, x, t, cond, alone, locked))

    @contextmanager
    def patched(self, sigma: Sigma, roles: tuple[str, ...], ctx: Ctx, own: bool = False) -> Iterator[Network]:
        """The network with the patches of `ctx`, for one call in the context.

        The first patch is outermost, so that its hooks run first. Patches, and `forward` where the call is to have its
        own view, are given a view of the module, so that calls of other threads are not changed.
        """
        if not ctx.patches and not own:
            if self.module is None:
                yield self.network
                return
            with self._views.shared(self.module) as locked:
                yield self._network_on(self.module, locked, locked)
            return
        with self._views.borrowed(self._module()) as module:
            locked = module is self.module  # it cannot have views
            call, network = Call(module, sigma, roles, ctx), self._network_on(module, True, locked)
            for patch in reversed(ctx.patches):
                network = patch(network, call)
            yield network

    def patchable(self) -> nn.Module:
        """The torch module, for patches.

        Raises:
            ValueError: If the network is not a torch module, or is compiled, as a whole or in parts.
        """
        check_eager(self._module(), self.name)
        return self._module()

    def _module(self) -> nn.Module:
        if self.module is None:
            raise ValueError(f"{self.name}: the network is not a torch module, so nothing in it can be patched")
        return self.module

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled: its network is a function of this process."""
        raise TypeError(
            "a part of a model cannot be sent to another process: send the whole, as sf.load gives it, which is loaded "
            "again there"
        )

    def check(self, cond: Cond) -> None:
        """Raises ValueError for a conditioning whose `concat`, images or controls the network cannot take."""
        channels = 0 if cond.concat is None else cond.concat.shape[1]
        if channels != self.concat and not (self.may_lack_concat and cond.concat is None):
            raise ValueError(
                f"{self.name} takes {self.concat} channels of concat in addition to the latent's "
                f"{self.latent.channels}; got {channels}"
            )
        if not self.references and references(cond):
            raise self.no_references()
        if cond.image_prompts and not self.image_prompts:
            raise self.no_adapters()
        for control in cond.controls:
            if self.controls is None:
                raise no_controls(self.name)
            self.controls(control.net)

    def no_adapters(self) -> ValueError:
        """Makes the error for an IP-Adapter where the network takes none."""
        return ValueError(f"{self.name} takes no IP-Adapter: these are for Stable Diffusion 1, 2 and XL, and for Flux")

    def no_references(self) -> ValueError:
        """Makes the error for references, images to edit, where the network takes none."""
        return ValueError(
            f"references: {self.name} cannot be shown images: "
            "these are for Qwen-Image, Flux 2, Flux Kontext and Wan Fun"
        )


def no_controls(name: str) -> ValueError:
    """Makes the error for a control where the network takes none."""
    return ValueError(f"{name} takes no controls: these are for Stable Diffusion 1, 2, XL and 3, Flux and Z-Image")
