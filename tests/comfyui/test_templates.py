"""Templates of ComfyUI's page that only need what is here run, on small networks with random weights."""

from importlib import import_module
from pathlib import Path

import pytest

RUN = {
    "flux_dev_full_text_to_image", "flux_fill_inpaint_example", "flux_redux_model_example", "flux_schnell",
    "image_qwen_image_2_1_t2i", "image_sdxl_simple", "sd3.5_simple_example", "sdxl_simple_example", "sdxlturbo_example",
}  # fmt: skip


@pytest.mark.slow
def test_templates_run(monkeypatch):
    pytest.importorskip("comfyui_workflow_templates_json", reason="comfyui-workflow-templates-json is not installed")
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    templates = import_module("templates")
    found = templates.templates()
    results = {each.name: templates.ran(each) for each in found if each.first}
    assert {name for name, result in results.items() if result.startswith("runs, images: ")} >= RUN
    assert len(results) == 22 and not any(result.startswith("fails") for result in results.values())
    assert sum(each.valid for each in found) >= 43
