"""What clients post, as the engine's requests.

A client names an image by an upload, a data URL or a path below the folder of inputs, and a model by a name that the
server gives; nothing else that a recipe or a workflow says can make the server read a file.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sigmafield.core.registry import shown
from sigmafield.recipes.options import AUTO
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.limits import Limits
from sigmafield.serve.names import ModelNames
from sigmafield.serve.public_names import FOLDERS, IMAGES, NESTED, PublicNames
from sigmafield.serve.roots import inside
from sigmafield.serve.uploads import PREFIX, Uploads, check_pixels, header


class BadRequest(ValueError):
    """What a client posted cannot be done.

    Args:
        message: What is wrong, in one line.
        field: The entry that is wrong; None where it is not one.
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Requests:
    """Translates what clients post.

    Args:
        names: The models that clients may use.
        uploads: The images that they have uploaded.
        limits: How much they may ask for.
        inputs: Folder of images that they may name; None has none.
    """

    names: ModelNames
    uploads: Uploads
    limits: Limits
    inputs: Path | None = None

    @property
    def public(self) -> PublicNames:
        """The way back: the engine's records as clients may see them."""
        return PublicNames(self.names, self.uploads, self.inputs)

    def recipe(self, entries: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """The engine's request for a recipe that a client posts.

        Args:
            entries: The recipe, as JSON holds it; without a model it gets the server's default.
            owner: Who posts it.

        Raises:
            BadRequest: It is not a recipe, asks for more than the limits, or names a file that it may not.
        """
        resolved = self.resolved({"model": self.names.default, **entries}, owner)
        self._check(read_recipe(resolved))
        return resolved  # as it was posted, so that the same post again is known to be the same

    def changes(self, record: JobRecord, entries: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """Other values of some entries of a job's recipe, for a clone of it; errors as for `recipe`."""
        made = self.resolved(entries, owner)
        whole = {**record.request, **{f"{name}_sha256": None for name in made if name in IMAGES}, **made}
        self._check(read_recipe({name: value for name, value in whole.items() if value is not None}))
        return made

    def workflow(self, prompt: Mapping[str, Any], extra: Mapping[str, Any] | None, owner: str) -> dict[str, Any]:
        """The engine's request for a workflow in API form.

        Its nodes find models in the server's folder and images among the owner's uploads, nothing else. A text that is
        an upload or a data URL becomes the name of its file there; so does an input `image` that names a file in the
        folder of inputs.

        Raises:
            BadRequest: It is not in API form, asks for more than the limits, or names an image that is not there.
        """
        made: dict[str, Any] = {}
        if not prompt:
            raise BadRequest("the workflow has no nodes", "workflow")
        for name, node in prompt.items():
            if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
                form = '{"3": {"class_type": "KSampler", "inputs": {…}}, …}'
                raise BadRequest(f"the workflow must be in API form, {form}; node {shown(name)} is not", "workflow")
            inputs = node.get("inputs", {})
            if not isinstance(inputs, Mapping):
                raise BadRequest(f"the inputs of node {shown(name)} must be an object; got {shown(inputs)}", "workflow")
            self.check_node(name, inputs)
            try:
                found = {key: self._node_input(key, value, owner) for key, value in inputs.items()}
            except ValueError as error:
                raise BadRequest(f"node {name}: {error}", "workflow") from None
            made[name] = {**node, "inputs": found}
        return {"prompt": made, **({} if extra is None else {"extra": dict(extra)})}

    def _node_input(self, key: str, value: Any, owner: str) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith("data:image/"):
            return self.uploads.add(of_data_url(value), owner).id
        if value.startswith(PREFIX):
            return self.uploads.path(value, owner).name
        found = self._input(value) if key == "image" else None
        return value if found is None else self.uploads.add(found.read_bytes(), owner).id

    def _input(self, name: str) -> Path | None:
        """The file of this name below the folder of inputs; None for others, whether they exist elsewhere or not."""
        if self.inputs is None:
            return None
        try:
            path = inside(self.inputs, name, "image")
        except ValueError:
            return None
        return path if path.is_file() else None

    def check_node(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Raise BadRequest if a node of a workflow asks for more than the limits; arguments as of `Limits`."""
        try:
            self.limits.check_node(name, inputs)
        except ValueError as error:
            raise BadRequest(str(error), "workflow") from None

    def resolved(self, entries: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """A recipe's entries with files in place of their names; values of another type stay for the recipe's errors.

        Raises:
            BadRequest: A name is not one that this client may use.
        """
        found = dict(entries)
        for name, value in entries.items():
            try:
                found[name] = self._entry(name, value, owner)
            except ValueError as error:
                text = str(error)
                raise BadRequest(text if name in text.split(":")[0] else f"{name}: {text}", name) from None
        return found

    def _entry(self, name: str, value: Any, owner: str) -> Any:
        if name in NESTED and isinstance(value, (list, Mapping)):
            items = cast("list[Any]", value if isinstance(value, list) else [value])
            return [self._nested(name, item, owner) for item in items]
        if not isinstance(value, str):
            return value
        if name in IMAGES:
            return value if name == "denoise_map" and value == AUTO else self._image(value, owner)
        if name == "model":
            return self.names.model(value)
        return self.names.file(value, name) if name in FOLDERS else value

    def _nested(self, name: str, item: Any, owner: str) -> Any:
        if not isinstance(item, Mapping):
            return item
        found = dict(item)
        for key in NESTED[name]:
            if isinstance(value := found.get(key), str):
                found[key] = self._image(value, owner) if key == "image" else self.names.file(value, f"{name}.{key}")
        return found

    def _image(self, value: str, owner: str) -> str:
        if value.startswith("data:"):
            value = self.uploads.add(of_data_url(value), owner).image
        if value.startswith(PREFIX):
            return str(self.uploads.path(value, owner))
        if self.inputs is None:
            raise ValueError(
                "give an image as upload:ID, from POST /v1/uploads, or as a data URL; "
                "this server was started without a folder of input images"
            )
        path = inside(self.inputs, value, "an image")
        if not path.is_file():
            raise ValueError(f"{shown(value)} is a folder, not an image")
        _, width, height, frames = header(path.read_bytes())
        check_pixels(width, height, frames, self.limits)
        return str(path)

    def _check(self, recipe: Recipe) -> None:
        named = {name: getattr(recipe, name) for name in IMAGES}
        named |= {name: [each.image for each in getattr(recipe, name)] for name in NESTED if "image" in NESTED[name]}
        for name, value in named.items():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and path != AUTO and not Path(path).is_file():  # the upload is deleted
                    raise BadRequest(f"{name}: {shown(self.public.file(path))} is not there any more", name)
        size = None
        if isinstance(recipe.image, str):
            _, width, height, _ = header(Path(recipe.image).read_bytes())
            size = width, height
        try:
            self.limits.check(recipe, size)
        except ValueError as error:
            field = str(error).split(" ")[0]
            raise BadRequest(str(error), "prompt" if field == "prompts" else field) from None


def of_data_url(value: str) -> bytes:
    """The bytes of a data URL of an image in base64. ValueError for another form."""
    head, comma, body = value.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError(f"a data URL must be data:image/TYPE;base64,…; got {shown(head)}")
    try:
        return b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the data URL is not base64") from None


def read_recipe(entries: Mapping[str, Any]) -> Recipe:
    """The recipe of JSON's entries. BadRequest names the entry that is wrong."""
    try:
        return Recipe.from_plain(entries)
    except ValueError as error:
        raise BadRequest(" ".join(str(error).split()), _wrong(entries, str(error))) from None


def _wrong(entries: Mapping[str, Any], message: str) -> str | None:
    """The first entry without which the recipe's error is another one, or goes."""
    if "prompt" not in entries:
        return "prompt"
    for name in entries:
        fewer = {"prompt": "", **{key: value for key, value in entries.items() if key != name}}
        try:
            Recipe.from_plain(fewer)
        except ValueError as error:
            if str(error) == message:
                continue
        return name
    return None
