"""What a net sees, as pictures: attention, patches, correspondences, neighbours, mistakes and maps of features."""
