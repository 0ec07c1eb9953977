"""Every parser of files: how a sound file is made, how it is mutated, how it is read as the commands read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import array_files
import data_files
import result_files
import weight_files
from making import Parser

PARSERS: dict[str, Callable[[str, Path], Parser | None]] = {
    "checkpoint-zip": weight_files.checkpoints(".pth", ("deit_checkpoint.pth", "clip_vit_torchscript_checkpoint.pt")),
    "checkpoint-legacy": weight_files.legacy,
    "checkpoint-safetensors": weight_files.checkpoints(".safetensors", ("hf_dinov2_checkpoint.safetensors",)),
    "hub-folder": weight_files.hub_folder,
    "head": weight_files.heads,
    "catalogue": weight_files.catalogue,
    "npy": array_files.score_npy,
    "npz": array_files.score_npz,
    "json": array_files.score_json,
    "features": array_files.score_features,
    "matrix": array_files.matrix,
    "distractors": array_files.distractors,
    "ground-truth": data_files.ground_truth,
    "cifar": data_files.cifar,
    "lists": data_files.lists,
    "csv": data_files.tables,
    "parquet": data_files.parquet,
    "arrow": data_files.arrow_files,
    "webdataset": data_files.shards,
    "zip": data_files.zips,
    "masks": data_files.masks,
    "images": data_files.pictures,
    "recipe": weight_files.recipe,
    "resume": weight_files.resume,
    "log": weight_files.training_log,
    "results": result_files.result_files,
    "predictions": result_files.predictions,
    "figures": result_files.figures,
    "page": result_files.page,
    "cache": result_files.cache_entry,
}
