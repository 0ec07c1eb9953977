"""Parsers of arrays and matrices, and of what `evaltk score` reads."""

from __future__ import annotations

import random
from pathlib import Path

import mutation
import numpy as np
from making import Make, Parser, either, mutated, npy, npz


def arrays_npy() -> Make:
    """Files of numpy with changed bytes, or with a header that promises something else."""
    headers = [
        f"{{'descr':'{kind}','fortran_order':{order},'shape':{shape}}}"
        for kind in ("<f8", "|O", "<U9999999", "<c16", "<M8[s]", "|V0", ">i2")
        for order in (False, True)
        for shape in (
            "(99999999999,4)",
            "(2**40,)",
            "(3,)",
            "(-1,)",
            "(0,99999999999999)",
            "(4,)",
            "()",
            "(" + "1," * 99 + ")",
        )
    ]
    headers += ["[" * 200, "{'descr':[('a','<f8')],'fortran_order':False,'shape':(3,)}", "open('x','w')", "1" * 5000]
    sound = [npy(np.arange(12.0).reshape(3, 4)), npy(np.array([{"a": 1}], dtype=object)), npy(np.arange(5))]

    def promised(rng: random.Random, path: Path) -> None:
        text = rng.choice(headers).encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(range(40)))

    return either(mutated(*sound), promised)


def score_npy(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    return Parser(name=name, make=arrays_npy(), read=lambda path: read_array(path, "x"), suffix=".npy")


def matrix(name: str, folder: Path) -> Parser:
    from evaltk.prototypes.report import read_matrix

    return Parser(name=name, make=arrays_npy(), read=read_matrix, suffix=".npy")


def distractors(name: str, folder: Path) -> Parser:
    from protocols.retrieval.protocol import Settings, _mapped

    def read(path: Path) -> object:
        found = _mapped(Settings(distractors=str(path)))
        return None if found is None else float(np.nan_to_num(found).sum())

    return Parser(name=name, make=arrays_npy(), read=read, suffix=".npy")


def score_npz(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    x = np.random.default_rng(0).random((5, 4))
    return Parser(
        name=name, make=mutated(npz(x=x, y=np.arange(3))), read=lambda path: read_array(path, "x"), suffix=".npz"
    )


def score_json(name: str, folder: Path) -> Parser:
    from evaltk.cli.score._terminal import read_array

    texts = ["[[1,2],[3,4]]", "[[1,2],[3]]", "[" * 100_000, "[1e999]", '{"a":1}', f"[{'1' * 5000}]", "[null]", '"x"']
    texts += ["[[1],[2,[3]]]", f"[1{'0' * 400}]", "[true]", "[]", '["a"]', "[NaN]", "[-1]"]
    sound = [text.encode() for text in texts]
    plain: Make = lambda rng, path: path.write_bytes(rng.choice(sound))  # noqa: E731
    return Parser(name=name, make=either(plain, mutated(*sound)), read=lambda p: read_array(p, "x"), suffix=".json")


def score_features(name: str, folder: Path) -> Parser:
    """`score knn` and `score fewshot` as commands, on arrays of other shapes, kinds and values."""
    from evaltk.cli import main
    from evaltk.errors import DataError

    rng0 = np.random.default_rng(0)
    sound = {
        "x": rng0.random((12, 3)),
        "y": np.repeat([1, 5, 9], 4),
        "q": rng0.random((3, 3)),
        "t": np.array([1, 5, 9]),
    }

    def make(rng: random.Random, path: Path) -> None:
        path.mkdir()
        arrays = dict(sound)
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(arrays))
            arrays[key] = mutation.of_array(rng, arrays[key])
        for key, array in arrays.items():
            np.save(path / f"{key}.npy", array)
        (path / "subject").write_text(rng.choice(("knn", "fewshot")))

    def read(path: Path) -> object:
        subject = (path / "subject").read_text()
        bank = "--bank" if subject == "knn" else "--train"
        x, y, q, t = (str(path / f"{key}.npy") for key in "xyqt")
        words = ["score", subject, bank, x, "--labels", y, "--queries", q, "--query-labels", t]
        code = main([*words, *(("--k", "1", "3") if subject == "knn" else ())])
        if code == 2:
            raise DataError(wanted="sound arrays", got="others")  # printed by the command
        return code

    return Parser(name=name, make=make, read=read)
