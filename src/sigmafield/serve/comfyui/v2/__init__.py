"""Comfy API v2, which comfy-sdk speaks, on this server's own jobs and files."""
