"""VAEs: images to latents and back, whole or tile by tile."""
