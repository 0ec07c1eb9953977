"""`pretrain.data.sources` under the name it had at first, for code that imports it so."""

from __future__ import annotations

from pretrain.data.sources import FolderSource, Source, open_source

__all__ = ["FolderSource", "Source", "open_source"]
