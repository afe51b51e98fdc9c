"""Recorded conversions: what two versions of ComfyUI's page made of workflows, and which classes its templates use."""

import json
import lzma
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "comfyui"


@cache
def workflows():
    """cases: 30 workflows with the prompts of frontends 1.35.9 and 1.58.1; templates: 20 with those of 1.35.9;
    missing: of each template of comfyui-workflow-templates-json 0.1.123 the classes that are not known."""
    return json.loads(lzma.decompress((DATA / "workflows.json.xz").read_bytes()))
