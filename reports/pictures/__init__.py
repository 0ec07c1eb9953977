"""The page of `evaltk show`: photographs with layers over them, pairs, clouds of points, all as SVG in one file."""
