"""Where the files of ComfyUI's protocol are, by the names of ComfyUI's own flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Where the files of ComfyUI's protocol are.

    Args:
        base_directory: Folder of the directories models, input, output, temp and user; None is the folder of jobs.
        input_directory: Folder of images that workflows load; None is input in the base directory.
        output_directory: Folder of what workflows save; None is output in the base directory.
        temp_directory: Folder in which a folder temp has previews; None is the base directory.
        user_directory: Folder of settings and saved workflows; None is user in the base directory.
        extra_model_paths_config: Files in the form of extra_model_paths.yaml, which name further folders of models.
        max_upload_size: MB of an uploaded file.
        multi_user: Whether the page asks who uses it, and each user has settings and workflows of their own.

    Raises:
        ValueError: A value is out of range.
    """

    base_directory: Path | None = None
    input_directory: Path | None = None
    output_directory: Path | None = None
    temp_directory: Path | None = None
    user_directory: Path | None = None
    extra_model_paths_config: Sequence[Path] = ()
    max_upload_size: Annotated[float, Range(0, above=True)] = 100.0
    multi_user: bool = False

    def __post_init__(self) -> None:
        settle(self, "ComfyUI's files")

    @property
    def max_upload(self) -> int:
        """Bytes of an uploaded file."""
        return round(self.max_upload_size * 2**20)
