"""What a command needs to know of an experiment: its options, how it is made of them, and its quick design."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sigmafield.lab.experiment import Experiment
from sigmafield.lab.subject import SubjectOptions

Options = TypeVar("Options")


@dataclass(frozen=True)
class Study(Generic[Options]):
    """A kind of experiment.

    Args:
        name: Its name, as on the command line.
        options: The class of its own options.
        make: The experiment with some options.
        quick: Options of a design that takes less than a minute on two cores, where none are given.
        quick_network: The same, where a network replaces an analytic model: its calls take far longer.
        subject: Options of the model and the seeds that it has where none are given.
        quick_subject: The same, of the quick design.
    """

    name: str
    options: Callable[..., Options]
    make: Callable[[SubjectOptions, Options], Experiment]
    quick: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quick_network: Mapping[str, Any] = field(default_factory=dict[str, Any])
    subject: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quick_subject: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def experiment(
        self, subject: Mapping[str, Any] = {}, options: Mapping[str, Any] = {}, quick: bool = False
    ) -> Experiment:
        """The experiment with these options, by name.

        Args:
            subject: Entries of `SubjectOptions`.
            options: Entries of its own options.
            quick: Whether the quick design is the default.

        Raises:
            ValueError: An option is unknown, has another type or is out of range.
        """
        shared = SubjectOptions(**{**self.subject, **(self.quick_subject if quick else {}), **subject})
        smaller = {**self.quick, **({} if shared.is_analytic else self.quick_network)} if quick else {}
        return self.make(shared, self.options(**{**smaller, **options}))
