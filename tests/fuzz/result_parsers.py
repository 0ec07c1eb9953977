"""Parsers of results, of the arrays beside them, and of cache entries."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mutation
import numpy as np
from making import Parser, as_json, changed, either, mutated, npz

GOLDEN = Path(__file__).parents[1] / "golden"


def results_of() -> list[dict[str, Any]]:
    paths = sorted((GOLDEN / "results_v1").rglob("*-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def result_files(name: str, folder: Path) -> Parser:
    """Results of both formats -> every table, in every form."""
    from dataclasses import asdict

    from evaltk import results
    from evaltk.errors import StorageError
    from reports import layouts, paired, tidy
    from reports.formats import render
    from reports.tables.build import build_overview, build_tables

    old = results_of()
    upgraded = folder / f"knn-x-{0:012x}.json"
    new = []
    for tree in old:
        upgraded.write_bytes(as_json(tree))
        new.append({"format": results.FORMAT, **json.loads(json.dumps(asdict(results.read(upgraded))))})
    upgraded.unlink()
    trees = [*old, *new, *new]
    texts = either(changed(trees, as_json), changed(trees, as_json), mutated(*map(as_json, new)))

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        texts(rng, path / f"knn-x-{0:012x}.json")
        for j in range(1, rng.choice((2, 3))):
            (path / f"knn-x-{j:012x}.json").write_bytes(as_json(rng.choice(new)))

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        if not found:
            raise StorageError(wanted="results", got="none")
        known, predictions = [r for _, r in found], paired.beside(found, lambda e: None)
        made = build_overview(known, predictions=predictions)
        made += build_tables(layouts.load("summary"), known, predictions=predictions)
        tidy.as_json(tidy.rows(known)), tidy.as_csv(tidy.rows(known))
        return [len(render.render_all(made, form)) for form in ("md", "csv", "html", "latex", "terminal")]

    return Parser(name=name, make=make, read=read)


def predictions(name: str, folder: Path) -> Parser:
    """Arrays beside results -> tables with tests, and the figures and galleries of prototypes."""
    import prediction_files

    from evaltk import results
    from reports import classes, paired
    from reports.tables.build import build_overview

    pairs: list[tuple[bytes, Mapping[str, np.ndarray]]] = prediction_files.pairs(folder)

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        text, arrays = rng.choice(pairs)
        others = rng.choice(pairs)
        for j, (json_text, sound) in enumerate(((text, arrays), others)):
            file = path / f"knn-x-{j:012x}.json"
            file.write_bytes(json_text)
            mine = dict(sound)
            for _ in range(rng.choice((1, 1, 2)) if not j else 0):
                key = rng.choice(list(mine))
                if rng.random() < 0.2:
                    mine.pop(key)
                else:
                    mine[key] = mutation.of_array(rng, mine[key])
            data = npz(**mine)
            if not j and rng.random() < 0.3:
                data = mutation.of_bytes(rng, data)
            results.predictions_path(file).write_bytes(data)

    def read(path: Path) -> object:
        found = list(results.find(path))
        made = build_overview([r for _, r in found], predictions=paired.beside(found, lambda e: None))
        for file, result in found:
            for judged in classes.of_result(result, results.read_predictions(file)):
                made += classes.tables(judged, 3)
        return len(made)

    return Parser(name=name, make=make, read=read)


def cache_entry(name: str, folder: Path) -> Parser:
    from evaltk.features.cache import CacheEntry
    from evaltk.types import FeatureKey

    words = ("sha256", "dataset", "split", "transform", "recipe", "precision", "position")
    key = FeatureKey(**dict.fromkeys(words, "x"), version=1)

    def make(rng: random.Random, path: Path) -> None:
        CacheEntry(root=path, key=key).write_arrays("masks.npz", {"masks": np.arange(60).reshape(3, 4, 5)})
        (file,) = path.rglob("masks.npz")
        file.write_bytes(mutation.of_bytes(rng, file.read_bytes()))

    return Parser(name=name, make=make, read=lambda p: CacheEntry(root=p, key=key).read_arrays("masks.npz", ["masks"]))


def page(name: str, folder: Path) -> Parser:
    """Results of every protocol, and arrays beside them -> the page with its figures, and the figures alone."""
    import prediction_files

    from evaltk import results
    from reports.page.build import build_page

    tables, beside = result_files(name, folder), predictions(name, folder)
    drawn = prediction_files.prototypes(folder)

    def prototypes(rng: random.Random, path: Path) -> None:
        path.mkdir()
        file = path / f"prototypes-x-{0:012x}.json"
        text, mine = drawn[0], dict(drawn[1])
        if rng.random() < 0.3:
            text = as_json(mutation.of_tree(rng, json.loads(text)))
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(mine))
            if rng.random() < 0.2:
                mine.pop(key)
            else:
                mine[key] = mutation.of_array(rng, mine[key])
        file.write_bytes(text)
        results.predictions_path(file).write_bytes(npz(**mine))

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        text = build_page(found, runs=path)
        assert "<script>alert" not in text
        return len(text)

    return Parser(name=name, make=either(tables.make, beside.make, prototypes, prototypes), read=read, share=0.02)


def figures(name: str, folder: Path) -> Parser:
    """As `page`, without the tables and the SVG, which take long."""
    from evaltk import results
    from evaltk.errors import StorageError
    from reports.figures import collect
    from reports.page import galleries

    def read(path: Path) -> object:
        found = list(results.find(path, skip=lambda path, why: None))
        said: list[StorageError] = []
        made = list(collect.of_analyses(found, complain=said.append))
        for file, _ in found:
            arrays = results.read_predictions(file, galleries.GALLERY_ARRAYS)
            if "gallery_images" in arrays and not galleries.gallery_fault(arrays):
                galleries.build_gallery("x", arrays, 100_000)
        if said:
            raise said[0]
        return len(made)

    return Parser(name=name, make=page(name, folder).make, read=read, share=0.2)
