"""The lines of a batch drawn by the workers of a Ray cluster; files and manifest are written here, as without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from sigmafield.cli.batch_lines import Outcomes, checkpoint_of, state_of, write_line
from sigmafield.cli.batch_worker import Drawn, LineWork, News, Order
from sigmafield.cli.errors import USER_ERRORS, complain
from sigmafield.cli.manifest import Manifest
from sigmafield.cli.prompts import Line
from sigmafield.cli.runner import Watching, go_on, meta_of, steps
from sigmafield.cli.shared import Shared
from sigmafield.cli.signals import Interrupted, Signals
from sigmafield.cli.single import facts_of, say_savings, stem_of, words_of
from sigmafield.cli.terminal_pool import PoolDisplay
from sigmafield.cluster.joined import check_address, needs_ray
from sigmafield.cluster.pool import Report, each
from sigmafield.models.load import absolute
from sigmafield.recipes.inputs import located
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import OwnFile, check_writable

DEVICES = (None, "cpu", "cuda")
"""What a worker may be asked to run on; None is its GPU, or its CPU where the cluster has no GPU."""


@dataclass
class Going:
    """A line that is with a worker: its recipe, its checkpoint, and the state that is not in it yet."""

    line: Line
    recipe: Recipe
    checkpoint: OwnFile
    preview: OwnFile
    step: int = 0
    unsaved: bytes | None = None
    kept: bool = False
    saved: float = field(default_factory=monotonic)

    def keep(self) -> None:
        """Write the checkpoint, if there is something new for it."""
        if self.unsaved is not None:
            self.checkpoint.write(self.unsaved)
            self.unsaved, self.kept, self.saved = None, True, monotonic()


def draw_on_cluster(
    todo: Sequence[tuple[Line, Recipe]],
    address: str,
    manifest: Manifest,
    shared: Shared,
    how: Watching,
    outcomes: Outcomes,
    *,
    as_json: bool,
) -> None:
    """Draw lines with the workers of a cluster.

    Args:
        todo: The lines with their recipes.
        address: The cluster's, see `cluster.joined`.
        manifest: Of the batch.
        shared: Reads the files of a recipe; its machine is that of the workers.
        how: What is written on the way.
        outcomes: What becomes of the lines.
        as_json: Show no progress.

    Raises:
        ValueError: It is not an address, or the machine names a device that workers cannot have.
        Interrupted: A signal came; the states are saved where the next command finds them.
    """
    machine, signals = shared.machine, Signals()
    theirs = replace(machine, preview_decoder=absolute(machine.preview_decoder))
    display = PoolDisplay(as_json, {line.number: recipe.steps for line, recipe in todo})
    batch = _Batch(manifest, shared, how, outcomes, display, as_json)
    gpu = {None: None, "cpu": False}.get(machine.device, True)
    reports = each(LineWork(theirs, how), batch.orders(todo), address, gpu)
    with signals.raised(), display, closing(reports):
        try:
            for news in reports:
                with signals.held():
                    batch.note(news)
        except Interrupted:
            batch.keep_all()
            raise


def check_workers(address: str, machine: MachineOptions) -> None:
    """Raise ValueError or ImportError where there cannot be such workers, before anything is written."""
    check_address(address)
    if machine.device not in DEVICES:
        raise ValueError(
            f"workers of a cluster have a GPU each, or a CPU: give --device cpu or cuda; got {machine.device!r}"
        )
    needs_ray()


@dataclass
class _Batch:
    """What the driver does with the reports of the workers."""

    manifest: Manifest
    shared: Shared
    how: Watching
    outcomes: Outcomes
    display: PoolDisplay
    as_json: bool
    going: dict[int, Going] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def orders(self, todo: Sequence[tuple[Line, Recipe]]) -> Iterator[Order]:
        """What workers get, read when one is free; a line whose files cannot be read is reported."""
        for line, recipe in todo:
            folder, checkpoint = self.manifest.folder, checkpoint_of(line, self.manifest)
            preview = OwnFile(folder / f"{stem_of(recipe)}-preview.png")
            self.going[line.number] = going = Going(line, recipe, checkpoint, preview)
            try:
                check_writable(folder)
                sealed, inputs = self.shared.inputs(recipe)
            except USER_ERRORS as error:
                self._failed(going, error)
                continue
            state = state_of(checkpoint.path, sealed)
            going.step, going.kept = state.i if state else 0, state is not None
            meta = meta_of(sealed, folder / f"{stem_of(sealed)}.png", self.shared.machine)
            data = checkpoint.path.read_bytes() if state else None
            yield Order(line.number, sealed, inputs, located(sealed), meta, data)

    def note(self, news: Report[Order, News]) -> None:
        """Show and keep what a worker reports."""
        going, value = self.going[news.item.line], news.value
        if news.error is not None:
            self._failed(going, news.error)
        elif news.died:
            then = f"goes on after {steps(going.step)}" if going.step else "begins again"
            self._say(f"line {going.line.number}: its worker died; another one {then}")
        elif news.ended and value is not None and value.drawn is not None:
            self._write(going, value.drawn)
        elif value is not None and value.drawn is None:
            if news.saved is not None:
                going.unsaved, going.step = news.saved, value.step
            self._keep(going, value.preview)
            self.display.update(going.line.number, going.recipe.prompt, value.progress, value.label)
            for text in () if self.as_json else value.notes:
                self._say(text)

    def keep_all(self) -> None:
        """Write the checkpoints of all lines that workers had, after a signal."""
        trouble = ""
        for going in self.going.values():
            try:
                going.keep()
            except OSError as error:
                trouble = f", and not all states could be saved: {error.strerror or error}"
        kept = sum(going.kept for going in self.going.values())
        if kept or trouble:
            lines = "1 line" if kept == 1 else f"{kept} lines"
            go_on(f"interrupted in the middle of {lines}{trouble}; finish with: ", "the same command")

    def _keep(self, going: Going, preview: bytes | None) -> None:
        """Write what is left on the way; where that is not possible, say so once and go on."""
        try:
            if preview is not None:
                going.preview.write(preview)
            if monotonic() - going.saved >= self.how.checkpoints:
                going.keep()
        except OSError as error:
            self._say(f"cannot write in {self.manifest.folder} ({error.strerror or error}); the run goes on")

    def _write(self, going: Going, drawn: Drawn) -> None:
        """Write the files of a line, and say what they are."""
        number, recipe = going.line.number, going.recipe
        path = self.manifest.folder / f"{stem_of(recipe)}.png"
        try:
            files = write_line(number, recipe, path, drawn.files, self.manifest)
            going.checkpoint.remove()
        except OSError as error:
            self._failed(going, error)
            return
        facts = facts_of(recipe, drawn.nfe, drawn.rows, drawn.seconds, files)
        self._end(number)
        with self.display.aside():
            say_savings(drawn.savings)
            if not self.as_json:
                print(words_of(facts), flush=True)
        self.outcomes.images.append({**facts, "line": number})

    def _failed(self, going: Going, error: Exception) -> None:
        """Report a line that cannot be drawn; its state is kept if there is one and the next command may need it."""
        if not isinstance(error, USER_ERRORS):
            raise error
        if isinstance(error, OSError):
            with suppress(OSError):
                going.keep()
            if going.kept:
                again = f"the state after {steps(going.step)} is kept: finish it with the same command"
                error = OSError(f"{error}; {again}")
        with self.display.aside():
            self.outcomes.fail(going.line, going.recipe, error, self.manifest)
        self._end(going.line.number)

    def _end(self, number: int) -> None:
        del self.going[number]
        self.display.end(number)

    def _say(self, text: str) -> None:
        """Print a note once."""
        if text not in self.said:
            self.said.add(text)
            with self.display.aside():
                complain(text, kind="note")
