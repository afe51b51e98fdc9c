"""ComfyUI's workflow files: reading, converting, drawing and writing them."""
