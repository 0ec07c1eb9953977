"""Data of a training run: image sources, sampling order, multi-crop views and masks."""
