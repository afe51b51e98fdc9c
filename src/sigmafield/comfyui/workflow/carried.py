"""What an image that a recipe drew carries for ComfyUI: the workflow that draws the same."""

from __future__ import annotations

from sigmafield.comfyui.workflow.files import Embedded, metadata_of
from sigmafield.comfyui.workflow.from_recipe import prompt_of, with_own_values
from sigmafield.comfyui.workflow.offered import offered_classes
from sigmafield.comfyui.workflow.value import Workflow
from sigmafield.recipes.build import Job

LIMIT = 200_000
"""Characters of a workflow that an image carries, at most."""


def workflow_texts(job: Job) -> dict[str, str]:
    """The texts in which ComfyUI finds the workflow of a recipe; none where its core nodes cannot say all of it."""
    try:
        prompt = prompt_of(with_own_values(job.recipe, job.pipe.model)).prompt
    except ValueError:
        return {}
    texts = metadata_of(Embedded(prompt, Workflow(prompt, offered_classes()).to_page()))
    return texts if sum(map(len, texts.values())) <= LIMIT else {}
