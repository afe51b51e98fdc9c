"""Which family each model of the golden vectors is."""

FAMILIES = {
    "sd15": "SD15", "sdxl": "SDXL", "vpred": "SD20_V", "vpred_zsnr": "SDXL_V_ZSNR", "edm": "SDXL_Playground_2_5",
    "svd": "SVD_img2vid", "sd3": "SD3", "aura": "AuraFlow", "flux": "Flux",
}  # fmt: skip
