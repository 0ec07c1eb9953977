"""From the names that each code base gives its tensors to timm's, and what of a file is dropped, by rule."""
