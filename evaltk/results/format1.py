"""Result files of format 1, brought into format 2 as they are read: their notes become deviations of known kinds.

Format 1 had the data set, the preprocessing and all notes among the protocol's settings, and rules went by the wording
of notes. That wording is frozen here, so that old results keep their verdicts; no new result ever needs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evaltk.checkpoints import catalog
from evaltk.deviations import NOT_COMPARABLE, DeviationKind
from evaltk.types import OriginProof

FORMAT = 1
REQUIRED = ("checkpoint", "protocol", "version", "settings", "scores", "seed", "request", "made")
AROUND = ("dataset", "images", "transforms", "precision", "position", "notes")  # put among the protocol's settings
END = ": not comparable with published figures"  # of a note after which no published number was compared
KINDS: tuple[tuple[DeviationKind, str], ...] = (
    (DeviationKind.SPLIT_SIZE, r"\w+ has [\d,]+ images, .+ [\d,]+"),
    (DeviationKind.SPLIT_SIZE, r"\d+ sequences, DAVIS-2017 val has \d+"),
    (DeviationKind.CLASS_COUNT, r"\d+ classes, .+ has \d+"),
    (DeviationKind.GROUND_TRUTH, r"\d+ database images and \d+ queries where the official files have .+"),
    (DeviationKind.HELD_OUT, r"\d+ images of \w+ held out, from which no net learnt"),
    (DeviationKind.NO_AUGMENTATION, r"--linear\.fast: learnt from features without augmentation, .+"),
    (DeviationKind.EPOCHS, r"\d+ epochs where the protocol has \d+"),
    (DeviationKind.RECIPE, r"fine-tuning apart from the recipe: .+"),
    (DeviationKind.ORIGINAL_IMAGES, r"images: original.*"),
    (DeviationKind.UNKNOWN_IMAGES, r"images: unknown.*"),
    (DeviationKind.QUERY_BOXES, r"\d+ queries have no box to be cropped to"),
    (DeviationKind.OWN_DRAWS, r"images drawn with seed \d+, not by the lists of published figures"),
    (DeviationKind.OWN_SPLIT, r"split: .+"),
    (DeviationKind.REENCODED_IMAGES, r".+ from image files: JPEG files are lossy, .+"),
    (DeviationKind.UNVERIFIED_IMAGES, r"images from parquet files; .+"),
    (DeviationKind.PREPROCESSING, r"frames normalised by the net's own mean .+"),
    (DeviationKind.UNREADABLE_IMAGES, r"\d+ unreadable images (left out )?of .+"),
    (DeviationKind.EMPTY_CLASSES, r"no training images of \d+ classes: .+"),
    (DeviationKind.SHARED_IMAGES, r"\d+ \w+ images are byte for byte in \w+ too: .+"),
)
TRIPLE = r"([\d.e-]+) ([\d.e-]+) ([\d.e-]+)"
RESIZED = re.compile(
    rf"resize (\d+) (bicubic|bilinear) \(Pillow\), centre crop (\d+), RGB/255, mean {TRIPLE}, std {TRIPLE}"
)
DRAWN = re.compile(rf"RandomResizedCrop (\d+) (bicubic|bilinear), .*RGB/255, mean {TRIPLE}, std {TRIPLE}(, .*)?")
PADDED = re.compile(rf"resize (\d+), random crop (\d+) padded .*RGB/255, mean {TRIPLE}, std {TRIPLE}(, .*)?")
BRANCHES = ("teacher", "student", "target_encoder", "encoder")  # which only full training checkpoints have


def upgraded(found: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a format 1 file, without its format, as one of format 2.

    Raises: ValueError, TypeError, AttributeError: fields that are missing, unknown or of another kind.
    """
    settings, checkpoint = found.get("settings"), found.get("checkpoint")
    missing = [name for name in REQUIRED if name not in found]
    data = settings.get("dataset") if isinstance(settings, dict) else None
    if isinstance(settings, dict):
        missing += [f"settings.dataset.{key}" for key in ("name", "fingerprint") if key not in (data or {})]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    if not (isinstance(settings, dict) and isinstance(data, dict) and isinstance(checkpoint, dict)):
        raise ValueError("a field of another kind")
    notes = settings.get("notes")
    deviations, notes = told(notes if isinstance(notes, list) else ())
    return {
        **found,
        "settings": {key: value for key, value in settings.items() if key not in AROUND},
        "data": {"name": data["name"], "fingerprint": data["fingerprint"], "sizes": {}},
        "preprocessing": {
            "precision": settings.get("precision"),
            "position": settings.get("position"),
            "overrides": settings.get("images") or {},
            "views": {name: view(text) for name, text in (settings.get("transforms") or {}).items()},
        },
        "origin_proof": origin_proof(checkpoint),
        "deviations": deviations,
        "notes": notes,
    }


def told(notes: Any) -> tuple[list[dict[str, str]], list[str]]:
    """(deviations, other notes) of what a result says of itself."""
    deviations, others = [], []
    for note in map(str, notes):
        text, apart = note.removesuffix(END), note.endswith(END)
        forms = ((kind, form) for kind, form in KINDS if (kind in NOT_COMPARABLE) == apart)
        kind = next((kind for kind, form in forms if re.fullmatch(form, text, re.DOTALL)), None)
        if apart and kind is None:
            kind = DeviationKind.UNCLASSIFIED
        if kind is None:
            others.append(note)
        else:
            deviations.append({"kind": kind.value, "text": text})
    return deviations, others


def view(text: str) -> dict[str, Any]:
    """A preprocessing's text as fields; the text alone where it is none of the known ones."""
    found: dict[str, Any] = {"text": text}
    if match := RESIZED.fullmatch(text):
        found |= {"resize": int(match[1]), "interpolation": match[2], "crop": int(match[3])}
    elif match := DRAWN.fullmatch(text):
        found |= {"crop": int(match[1]), "interpolation": match[2], "augmented": True}
    elif match := PADDED.fullmatch(text):
        found |= {"resize": int(match[1]), "crop": int(match[2]), "augmented": True}
    if match:
        first = 3 if match.re is PADDED or match.re is DRAWN else 4
        numbers = [float(match[i]) for i in range(first, first + 6)]
        found |= {"mean": numbers[:3], "std": numbers[3:]}
    return found


def origin_proof(checkpoint: Mapping[str, Any]) -> str:
    """What proves the origin of the weights: the branch, for files of one net have none; or a sha256 known here."""
    if checkpoint.get("branch") in BRANCHES:
        return OriginProof.LAYOUT.value
    known = catalog.pinned(str(checkpoint.get("sha256") or ""))
    return (OriginProof.SHA256 if known and known.family == checkpoint.get("family") else OriginProof.NONE).value
