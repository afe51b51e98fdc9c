"""comfy-sdk: an asset, a workflow with it, its events, its outputs, its workflow; then what goes wrong."""

import os
import sys
import time

from comfy_sdk import Comfy, exceptions

workflow, image, slow = sys.argv[1:4]
client = Comfy()
asset = client.assets.from_file(image)
wf = client.workflows.from_file(workflow)
wf.json["3"]["inputs"]["seed"] = time.time_ns() % 2**32  # results of an equal job would be used again
wf.json["3"]["inputs"]["steps"] = 120  # a second or more, so that there is something to follow
wf.json["20"] = {"class_type": "LoadImage", "inputs": {"image": ""}}
wf.json["21"] = {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "copy"}}
wf.set_input("20", "image", asset)
labels = None if "PROXY" in os.environ else {"client": "acme"}
job = client.submit(wf, metadata=labels) if labels else client.submit(wf)
print("submitted", job.status)
print("events", *sorted({type(event).__name__ for event in job.events()}))
job.wait()
print("ended", job.status)
for output in sorted(job.outputs, key=lambda output: output.node_id):
    print("output", output.node_id, output.type, output.to_bytes()[:4])
again = client.jobs.get(job.id).get_workflow()
print("workflow", again.format, again.graph["20"]["inputs"]["image"])
try:
    client.run(client.workflows.from_json({"1": {"class_type": "Nope", "inputs": {}}}))
except exceptions.InvalidWorkflow as error:
    print("refused", error)
lost = {"1": {"class_type": "LoadImage", "inputs": {"image": {"__type": "core/ASSET", "info": {"id": "no"}}}}}
try:
    client.submit(client.workflows.from_json(lost))
except exceptions.MissingAsset as error:
    print("missing", error)
try:
    client.jobs.get("7f3d2c1b-9a8e-4d6f-b012-3c4d5e6f7a8b")
except exceptions.NotFound as error:
    print("unknown", error)
long = client.submit(client.workflows.from_file(slow))
while long.refresh().status == "queued":
    time.sleep(0.05)
status = long.cancel().status
print("cancelled", status in ("canceling", "canceled") or status)
long.wait()
print("ended", long.status)
if labels:
    print("listed", [item.id == job.id for item in client.list_jobs(metadata=labels)][:1])
