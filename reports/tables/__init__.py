"""Results as tables: by layout, in a paper's own order, over all protocols, or two checkpoints side by side."""
