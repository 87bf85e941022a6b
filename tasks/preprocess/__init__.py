"""Raw diffusion-weighted MRI to corrected volumes, a brain mask and quality figures."""
