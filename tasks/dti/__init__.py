"""Diffusion tensor fit: corrected diffusion-weighted volumes to FA, MD, AD, RD and kurtosis."""
