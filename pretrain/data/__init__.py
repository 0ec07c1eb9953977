"""What a training run reads: images in the order of a sampler, multi-crop views and masks."""
