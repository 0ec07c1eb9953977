"""Images, videos and retrieval benchmarks on disk: listed, checked, decoded. Nothing here knows a dataset by name."""
