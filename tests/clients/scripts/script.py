"""comfy-script: nodes as functions, made from what the server says of its classes."""

import sys

from comfy_script.runtime import *

load(sys.argv[1])
from comfy_script.runtime.nodes import *

with Workflow(wait=True):
    model, clip, vae = CheckpointLoaderSimple("tiny")
    text = CLIPTextEncode("a red heart", clip)
    latent = KSampler(model, 3, 2, 1.0, "euler", "normal", text, text, EmptyLatentImage(64, 64, 1), 1.0)
    image = VAEDecode(latent, vae)
    saved = SaveImage(image, "script")
print("image", saved.wait()[0].size if hasattr(saved, "wait") else saved)
