"""comfyui-autograph: submit a graph, wait, save its images, and convert a workflow of the page."""

import sys

from autograph import ApiFlow, Flow

url, workflow, page, folder = sys.argv[1:5]
api = ApiFlow.load(workflow)
api.KSampler.seed = 31
print("saved", api.submit(server_url=url, wait=True).fetch_images().save(f"{folder}/autograph.###.png"))
made = Flow(page, server_url=url).convert()
print("converted", *sorted(node["class_type"] for node in dict(made).values()))
