"""comfy-api-simplified: change a node by its title, wait for the images of another one, upload, look around."""

import sys
from pathlib import Path

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

url, workflow, folder = sys.argv[1:4]
api = ComfyApiWrapper(url)
wf = ComfyWorkflowWrapper(workflow)
wf.set_node_param("KSampler", "seed", 11)
wf.set_node_param("Positive", "text", "a green apple")
for name, data in api.queue_and_wait_images(wf, "Save Image").items():
    print("image", name, data[:4])
    Path(folder, "again.png").write_bytes(data)
print("uploaded", api.upload_image(str(Path(folder, "again.png"))))
print("queue", api.get_queue())
