"""Trees of tensors that are no vision net, named for what they are by their keys: adapters, optimizers, text models."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import torch

from evaltk.checkpoints.inert_values import Name, Thing
from evaltk.checkpoints.plain_tree import SAVE, walk

LOOKED_AT = 100_000  # tensors
LORA = re.compile(
    r"(^|\.)(lora_[AB]|lora_(up|down)|lora_embedding_[AB]|lora_magnitude_vector|hada_w[12]_[ab]|lokr_w[12])"
)
ADAPTER = re.compile(r"(^|\.)(adapters?|adapter_\w+|prompt_embeddings|prompt_encoder|ia3_l)(\.|$)")
QUANTISED = re.compile(
    r"(^|\.)(qweight|qzeros|g_idx|SCB|weight_format|absmax|quant_map|nested_absmax|quant_state(\.\w+)?|_packed_params"
    r"(\.\w+)*|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|scales_and_zeros)(\.|$)"
)
VISION = re.compile(
    r"patch_embed|patch_embedding|conv1\.|conv_stem|stem\.|visual|vision|pixel|embeddings\.patch|downsample|conv_proj"
    r"|image_encoder|img_"
)
TEXT = re.compile(
    r"(^|\.)(wte|wpe|word_embeddings|embed_tokens|tok_embeddings|token_embd|lm_head|token_embedding|embed_positions"
    r"|position_embeddings\.weight|shared\.weight)"
)
DIFFUSION = re.compile(
    r"(^|\.)(down_blocks\.\d|up_blocks\.\d|mid_block\.|model\.diffusion_model\.|time_embed(ding)?\.)"
)
CODEC = re.compile(r"(^|\.)(quant_conv|post_quant_conv|first_stage_model)\.")
AUDIO = re.compile(r"(^|\.)(feature_extractor\.conv_layers|pos_conv_embed|mel_filters)")
TASK_HEADS = re.compile(
    r"^(module\.|model\.)?(roi_heads?|rpn(_head)?|bbox_head|mask_head|decode_head|auxiliary_head|sem_seg_head"
    r"|proposal_generator|keypoint_head|panoptic_head|class_embed|bbox_embed)\."
)
TRAINING = {
    "optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "opt", "scaler", "amp_scaler",
    "amp", "loss_scaler", "lr_scheduler", "lr_schedulers", "scheduler", "sched", "rng_state", "cuda_rng_state",
    "random_rng_state", "torch_rng_state", "state", "param_groups",
}  # fmt: skip
NET = "name the file with the net's weights"
MERGE = "merge them into the base net in the code that made them (peft: merge_and_unload()), then save its state_dict"
UNQUANTISED = "use the original checkpoint, with float weights"
ZERO = "merge the shards with DeepSpeed's zero_to_fp32.py FOLDER OUT, and name OUT"


def describe(tree: Mapping[str, object]) -> tuple[str, str] | None:
    """(what the tree is, what to do), or None where it may be a vision net.

    For a file that no family claims: the marks are those of other files, but no proof against a net.
    """
    found = list(itertools.islice(walk(tree), LOOKED_AT))
    keys = [key for key, _ in found]
    if {"optimizer_state_dict"} <= set(tree) and "zero_stage" in _keys(tree["optimizer_state_dict"]):
        return "a shard of a DeepSpeed optimizer's state", ZERO
    if not keys:
        return None
    if {"state", "param_groups"} <= set(tree) or all(key.partition(".")[0] in TRAINING for key in keys):
        return "the state of an optimizer, without the net", NET
    if any(LORA.search(key) for key in keys) and _share(LORA, keys) >= 0.3:
        return "adapter weights only (LoRA)", MERGE
    if _share(ADAPTER, keys) >= 0.9:
        return "adapter weights only", MERGE
    if any(QUANTISED.search(key) for key in keys) or any(
        t.ndim >= 2 and t.dtype in (torch.int8, torch.uint8) and key.endswith("weight") for key, t in found
    ):
        return "quantised weights (int8, GPTQ, bitsandbytes or the like)", UNQUANTISED
    for marks, what, do in (
        (TASK_HEADS, "heads of a detection or segmentation model, without its backbone", NET),
        (DIFFUSION, "a diffusion model", "name an encoder of images"),
        (CODEC, "an autoencoder of a diffusion model", "name an encoder of images"),
        (AUDIO, "an audio model", "name an encoder of images"),
    ):
        share = _share(marks, keys)
        if share == 1 or (marks is not TASK_HEADS and share > 0):
            return what, do
    if _share(TEXT, keys) and not any(VISION.search(key) for key in keys):
        return "a text model, without a vision tower", "name an encoder of images"
    return None


def describe_pickle(tree: object) -> tuple[str, str]:
    """(what a pickle is that torch.save did not write, what to do); `tree` as `inert_pickle` reads it."""
    names, keys = set(), set()
    for value in itertools.islice(_parts(tree), LOOKED_AT):
        if isinstance(value, Thing | Name):
            names.add((value.name if isinstance(value, Thing) else value.path).partition(".")[0])
        elif isinstance(value, str):
            keys.add(value)
    if names & {"haiku", "jax", "jaxlib", "dill", "flax", "optax"} or keys & {"online_params", "experiment_state"}:
        what = "a pickle of a JAX or haiku net"
        do = "convert it to a torch state_dict first, as the public conversions of BYOL's pretrain_res50x1.pkl do"
        return what, do
    if "sklearn" in names or "joblib" in names:
        return "a pickle of scikit-learn", NET
    if isinstance(tree, dict) and "numpy" in names:
        do = f"turn the arrays into tensors in your own code and run: {SAVE.replace('model.state_dict()', 'tensors')}"
        return "a pickle of numpy arrays", do
    kind = tree.name if isinstance(tree, Thing) else type(tree).__name__
    return f"a pickle that torch.save did not write (a {kind[:80]})", f"where you trust it, run: {SAVE}"


def _share(marks: re.Pattern[str], keys: list[str]) -> float:
    return sum(bool(marks.search(key)) for key in keys) / len(keys)


def _keys(value: object) -> set[object]:
    return set(value) if isinstance(value, Mapping) else set()


def _parts(tree: object, depth: int = 0) -> Iterator[object]:
    """The objects, names and keys in what `inert_pickle` read."""
    yield tree
    if depth == 8:
        return
    inner: list[object] = []
    if isinstance(tree, dict):
        inner = [*tree.keys(), *tree.values()]
    elif isinstance(tree, list | tuple):
        inner = list(tree)
    elif isinstance(tree, Thing):
        inner = [tree.state, *tree.args, *(part for pair in tree.items for part in pair), *tree.elements]
    for part in inner:
        yield from _parts(part, depth + 1)
