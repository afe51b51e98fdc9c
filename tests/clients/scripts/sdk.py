"""comfy-sdk: an asset, a workflow with it, its events, its outputs, its workflow; then what goes wrong."""

import sys
import time

from comfy_sdk import Comfy, exceptions

workflow, picture, slow = sys.argv[1:4]
client = Comfy()
asset = client.assets.from_file(picture)
wf = client.workflows.from_file(workflow)
wf.json["20"] = {"class_type": "LoadImage", "inputs": {"image": ""}}
wf.json["21"] = {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "copy"}}
wf.set_input("20", "image", asset)
job = client.submit(wf)
print("submitted", job.status)
print("events", *dict.fromkeys(type(event).__name__ for event in job.events()))
job.wait()
print("ended", job.status)
for output in sorted(job.outputs, key=lambda output: output.node_id):
    print("output", output.node_id, output.type, output.content_type, output.to_bytes()[:4])
try:
    client.run(client.workflows.from_json({"1": {"class_type": "Nope", "inputs": {}}}))
except exceptions.InvalidWorkflow as error:
    print("refused", type(error).__name__, error)
long = client.submit(client.workflows.from_file(slow))
while long.status.value == "queued":
    time.sleep(0.05)
    long.refresh()
long.cancel()
long.wait(raise_on_failure=False) if "raise_on_failure" in long.wait.__code__.co_varnames else None
