"""Large latents and parts of them: tiles, windows, masks, and noise levels that vary over the image."""
