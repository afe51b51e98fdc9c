"""comfyui-autograph: submit a graph, wait, save its images, and convert a workflow of the page."""

import json
import sys
from pathlib import Path

from autograph import ApiFlow, Flow

url, workflow, page, folder = sys.argv[1:5]
api = ApiFlow.load(workflow)
api.KSampler.seed = 31
print("saved", api.submit(server_url=url, wait=True).fetch_images().save(f"{folder}/autograph.###.png"))
Flow(page, server_url=url).convert().save(f"{folder}/made.json")
made = json.loads(Path(folder, "made.json").read_text())
print("converted", *sorted(node["class_type"] for node in made.values()))
