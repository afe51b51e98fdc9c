"""A recipe becomes a workflow of core nodes, and that workflow the same recipe."""

import pytest
from recorded import workflows

import sigmafield as sf
from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.graph import is_link
from sigmafield.comfyui.workflow.classes import check_value, inputs_of, known_classes, outputs_of
from sigmafield.comfyui.workflow.from_recipe import prompt_of, with_own_values
from sigmafield.comfyui.workflow.page import to_page
from sigmafield.comfyui.workflow.recipe_nodes import MODS, SAMPLERS, SCHEDULES
from sigmafield.comfyui.workflow.to_recipe import recipe_of
from small_network import shipped_model

CLASSES = known_classes()
BASE = {"schedule": "karras", "cfg": 7.0, "width": 512, "height": 768, "seed": 5, "model": "m.safetensors"}
IMAGE = {"image": "i.png", "denoise": 0.6, "schedule": "normal", "cfg": 4.0, "model": "m.safetensors"}
WHOLE = {"karras": "sigma_min=0.03,sigma_max=14.6", "exponential": "sigma_min=0.03,sigma_max=14.6",
         "polyexponential": "sigma_min=0.03,sigma_max=14.6", "laplace": "sigma_min=0.03,sigma_max=14.6"}  # fmt: skip

RECIPES = {
    "plain": sf.Recipe("a heart", negative="bad", **BASE),
    "ksampler advanced": sf.Recipe("a", sampler="euler", start_step=3, last_step=9, steps=12, **BASE),
    "part of a custom schedule": sf.Recipe(
        "a", sampler="er_sde_ode(max_stage=2)", start_step=3, last_step=9, steps=12, **BASE
    ),
    "everything of text": sf.Recipe(
        "a", sampler="sa_solver(eta=0.5)", guidance="rescale(multiplier=0.5)+freeu_v2+apg(eta=0.5)", clip_skip=-2,
        batch=2, distilled_guidance=2.5, **{**BASE, "schedule": "beta(alpha=0.5)"},
        loras=[sf.Lora("x.safetensors", 0.5), sf.Lora("y.safetensors", 1.0, text_strength=0.0)],
        regions=[sf.Region("b", 0, 0, 64, 64), sf.Region("c", 64, 0, 64, 128, 0.5)],
        controls=[sf.ControlImage("n", "p.png", 0.7, 0.1, 0.9, "openpose"), sf.ControlImage("m", "d.png")],
    ),
    "image": sf.Recipe("a", scale=2.0, batch=3, **IMAGE),
    "inpainting": sf.Recipe("a", mask="m.png", mask_from="brightness", paste_back=True, **IMAGE),
    "painted mask, steps of a part of the schedule": sf.Recipe(
        "a", mask="m.png", mask_from="alpha", last_step=5, width=64, height=64, **IMAGE
    ),
    **{f"sampler {name}": sf.Recipe("a", sampler=f"{name}({next(iter(row.inputs))}=2)", **BASE)
       for name, row in SAMPLERS.items() if "eta" not in row.inputs and row.inputs},
    **{f"schedule {name}": sf.Recipe("a", steps=4, **{**BASE, "schedule": f"{name}({WHOLE.get(name, '')})"})
       for name in SCHEDULES if name != "beta"},
    **{f"mod {name}": sf.Recipe("a", guidance=name, **BASE) for name in MODS},
}  # fmt: skip


def check_against_classes(prompt):
    """Every required input is there, every value fits, every link has the type that is wanted."""
    for name, node in prompt.items():
        declared = {each.name: each for each in inputs_of(CLASSES[node["class_type"]])}
        required = CLASSES[node["class_type"]]["input"].get("required", {})
        assert required.keys() <= node["inputs"].keys() <= declared.keys(), (name, node)
        for key, value in node["inputs"].items():
            if is_link(value):
                kind = outputs_of(CLASSES[prompt[value[0]]["class_type"]])[value[1]][1]
                assert kind == declared[key].type, (name, key)
            else:
                check_value(f"{name}.{key}", declared[key], value)


@pytest.mark.parametrize("name", RECIPES)
def test_the_workflow_of_a_recipe_is_valid_and_gives_the_recipe_again(name):
    prompt, _ = prompt_of(RECIPES[name])
    check_against_classes(prompt)
    assert recipe_of(prompt).recipe == RECIPES[name]
    assert to_prompt(to_page(prompt, CLASSES), CLASSES) == prompt


def test_what_nodes_cannot_say_is_refused_all_at_once():
    recipe = sf.Recipe("a", noise="pyramid", tiling=sf.Tiling(), guidance="nag", sampler="distance", frames=3)
    with pytest.raises(
        ValueError, match="frames; noise; tiling; schedule is the model's own: give it; cfg is"
    ) as error:
        prompt_of(recipe)
    assert "guidance nag" in str(error.value) and "sampler distance" in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sampler": "euler(s_churn=1)"}, "sampler euler\\(s_churn=1\\)"),
        ({"guidance": "apg(form=paper)"}, "form of guidance apg"),
        ({"schedule": "karras(rho=5)"}, "sigma_max of schedule karras is the model's own"),
        ({"schedule": "vp", "sampler": "dpm_2"}, "only KSampler leaves out the last level"),
        ({"schedule": "sd_turbo", "steps": 20}, "steps of ComfyUI's SDTurboScheduler must be from 1 to 10; got 20"),
        ({"shift": 3.0, "control_crop": "along"}, "shift; control_crop 'along'"),
    ],
)
def test_what_would_change_the_image_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        prompt_of(sf.Recipe("a", **{**BASE, **options}))


def test_the_models_own_values_are_written_out():
    model = shipped_model().model
    recipe = with_own_values(sf.Recipe("a"), model)
    assert (recipe.width, recipe.height, recipe.cfg) == (*model.size[::-1], model.cfg)
    assert recipe_of(prompt_of(recipe).prompt).recipe == recipe


def test_files_are_named_without_their_directories_and_said():
    recipe = sf.Recipe("a", **{**BASE, "model": "models/x/m.safetensors"}, loras=[sf.Lora("l/a.safetensors")])
    prompt, notes = prompt_of(recipe)
    assert (
        prompt["1"]["inputs"]["ckpt_name"] == "m.safetensors" and prompt["2"]["inputs"]["lora_name"] == "a.safetensors"
    )
    assert len(notes) == 2 and "models/x/m.safetensors" in notes[0] and "l/a.safetensors" in notes[1]


def test_comfyuis_own_templates_of_that_shape_become_recipes():
    templates = workflows()["templates"]
    recipe, notes = recipe_of(templates["default"]["api"])
    assert recipe.prompt == templates["default"]["api"]["6"]["inputs"]["text"]
    assert (recipe.steps, recipe.seed, recipe.cfg, str(recipe.schedule)) == (20, 685468484323813, 8.0, "normal")
    assert notes == ["model is named 'v1-5-pruned-emaonly-fp16.safetensors': give its path"]
    loras = recipe_of(templates["lora_multiple"]["api"]).recipe.loras
    assert [lora.path for lora in loras] == ["blindbox_v1_mix.safetensors", "MoXinV1.safetensors"]
    for name in ("area_composition", "flux_redux_model_example", "inpaint_example", "sdxlturbo_example"):
        with pytest.raises(ValueError, match="node \\d|a recipe has one output"):
            recipe_of(templates[name]["api"])


def plain():
    return prompt_of(RECIPES["plain"]).prompt


def test_another_shape_is_refused_with_the_node():
    prompt = plain()
    text = next(name for name, node in prompt.items() if node["_meta"]["title"] == "Negative Prompt")
    prompt[text]["inputs"]["clip"] = ["9", 0]
    prompt["9"] = {"class_type": "CLIPLoader", "inputs": {"clip_name": "x", "type": "sd3"}}
    with pytest.raises(ValueError, match="nodes 1 and 9: a recipe has one text encoder"):
        recipe_of(prompt)
    del prompt["7"]
    with pytest.raises(ValueError, match="a recipe has one output, and this workflow 0"):
        recipe_of(prompt)


def test_values_of_primitives_are_read_and_other_nodes_are_said():
    prompt = plain()
    prompt["20"] = {"class_type": "PrimitiveInt", "inputs": {"value": 11}}
    prompt["21"] = {"class_type": "PreviewAny", "inputs": {"source": ["20", 0]}}
    sampler = next(name for name, node in prompt.items() if node["class_type"] == "KSampler")
    prompt[sampler]["inputs"]["steps"] = ["20", 0]
    recipe, notes = recipe_of(prompt)
    assert recipe.steps == 11 and "node 21 (PreviewAny) is not a part of what is saved" in notes
