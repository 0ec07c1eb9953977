"""Every parser of files: how a sound file is made, how it is mutated, how it is read as the commands read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import array_parsers
import data_parsers
import listing_parsers
import result_parsers
import weight_parsers
from making import Parser

PARSERS: dict[str, Callable[[str, Path], Parser | None]] = {
    "checkpoint-zip": weight_parsers.checkpoints(".pth", ("deit_checkpoint.pth", "clip_vit_torchscript_checkpoint.pt")),
    "checkpoint-legacy": weight_parsers.legacy,
    "checkpoint-safetensors": weight_parsers.checkpoints(".safetensors", ("hf_dinov2_checkpoint.safetensors",)),
    "hub-folder": weight_parsers.hub_folder,
    "head": weight_parsers.heads,
    "catalogue": weight_parsers.catalogue,
    "npy": array_parsers.score_npy,
    "npz": array_parsers.score_npz,
    "json": array_parsers.score_json,
    "features": array_parsers.score_features,
    "matrix": array_parsers.matrix,
    "distractors": array_parsers.distractors,
    "ground-truth": data_parsers.ground_truth,
    "cifar": data_parsers.cifar,
    "lists": data_parsers.lists,
    "csv": data_parsers.tables,
    "parquet": data_parsers.parquet,
    "arrow": data_parsers.arrow_files,
    "webdataset": data_parsers.shards,
    "zip": data_parsers.zips,
    "masks": data_parsers.masks,
    "images": data_parsers.pictures,
    "recipe": weight_parsers.recipe,
    "resume": weight_parsers.resume,
    "log": weight_parsers.training_log,
    "results": result_parsers.result_files,
    "predictions": result_parsers.predictions,
    "figures": result_parsers.figures,
    "page": result_parsers.page,
    "cache": result_parsers.cache_entry,
    "suite": listing_parsers.suite,
    "names": listing_parsers.names,
    "label-maps": listing_parsers.label_maps,
    "published-lists": listing_parsers.published_lists,
    "others-figures": listing_parsers.others_figures,
    "kept-pixels": listing_parsers.kept_pixels,
    "claims": listing_parsers.claims,
}
