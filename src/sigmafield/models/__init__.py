"""Models: loading, text, network, VAE."""
