"""The groups of `benchmarks.numbers`. Only what users may name is used: the command line and evaltk's public modules.

A group that fails is written down as such and the others go on, so that the same file runs on older and newer trees.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _numbers_inputs as inputs
from benchmarks._numbers_record import Record

NET = "random:vit_patch4_dim32_depth2_heads2_img16"
GOLDEN_NETS = ("dino_p16_full_checkpoint.pth", "ibot_checkpoint.pth", "msn_checkpoint.pth.tar")
KNN = ["--knn.k", "1", "5", "10", "20", "--knn.choose", "200"]
FEW = ["--fewshot.splits", "2", "--fewshot.shots", "1", "5"]
METHODS = {
    "dino": ["method.scoring=linear", "method.centering=logit"],
    "dino_probability": ["method.scoring=linear", "method.centering=probability"],
    "dino_vmf": ["method.centering=probability"],
    "dino_vmf_logit": ["method.centering=logit"],
    "ibot": ["method.name=ibot", "method.scoring=linear", "method.centering=logit"],
    "ibot_vmf": ["method.name=ibot", "method.centering=probability"],
    "msn": ["method.name=msn", "method.scoring=cosine"],
}
FIVE_STEPS = ["net.arch=vit_patch4_dim32_depth2_heads2_img16", "net.drop_path=0.1", "method.num_prototypes=64"]
FIVE_STEPS += ["method.hidden=32", "method.bottleneck=16", "views.num_local=2", "optim.batch=200", "optim.epochs=1"]
FIVE_STEPS += ["optim.warmup_epochs=0", "optim.freeze_last_layer=0", "run.workers=0", "run.knn=100", "run.log_every=1"]
FIVE_STEPS += ["run.monitor_every=5"]


def command(words: list[str]) -> str:
    """What `evaltk WORDS` prints. Raises: RuntimeError: it ends with another code than 0."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = importlib.import_module("evaltk.cli").main(words)
    if code != 0:
        raise RuntimeError(f"evaltk {' '.join(words)[:100]} ended with {code}")
    return told.getvalue()


class Suite:
    """All groups, in an order in which later ones may use what earlier ones left in the folder."""

    def __init__(self, record: Record) -> None:
        self.record, self.folder = record, record.folder

    def groups(self) -> dict[str, Callable[[], None]]:
        """{name: the group}."""
        alone = {name: getattr(self, name) for name in ("digits", "golden", "augmented", "finetune", "retrieval")}
        alone |= {"vos": self.vos, "tables": self.tables, "nets": self.nets, "neighbours": self.neighbours}
        alone |= {"logistic": self.logistic, "vmf": self.vmf, "metrics": self.metrics, "duplicates": self.duplicates}
        return {f"pretrain_{name}": lambda name=name: self.pretrain(name) for name in METHODS} | alone  # type: ignore[misc]

    def run(self, group: str, checkpoints: list[str], words: list[str]) -> None:
        """`evaltk run`, and all that its results say."""
        out = self.folder / "runs" / group
        given = ["--out", str(out), "--cache", str(self.folder / "cache"), "--device", "cpu", "--workers", "1"]
        command(["run", *checkpoints, *words, *given])
        self.record.results(group, out)

    def pretrain(self, name: str) -> None:
        """Five steps of a method: every number of the log, and the weights."""
        import torch

        out = self.folder / "trained" / name
        words = ["pretrain", "digits_dino_vmf", "--data", "digits", "--out", str(out), "--device", "cpu"]
        command([*words, "--set", *FIVE_STEPS, *METHODS[name]])
        for i, line in enumerate((out / "log.jsonl").read_text().splitlines()):
            self.record.tree(f"pretrain_{name}/log/{i}", json.loads(line))
        tree = torch.load(out / "checkpoint.pth", map_location="cpu", weights_only=True)
        for key in sorted(tree):
            if key not in ("optimizer", "opt") and (isinstance(tree[key], dict) or hasattr(tree[key], "detach")):
                self.record.weights(f"pretrain_{name}/weights", {key: tree[key]})

    def digits(self) -> None:
        """Scikit-learn's digits: pixels, a random net and a trained one."""
        trained = str(self.folder / "trained" / "dino_vmf" / "checkpoint.pth")
        linear = ["--linear.fast", "--linear.epochs", "3", "--linear.lr", "0.01", "0.1", "1"]
        image = ["knn", "linear", "fewshot", "transfer"]
        self.run("digits", ["pixels:8", NET], ["--protocols", *image, "--data", "digits", *KNN, *FEW, *linear])
        heads = ["knn", "fewshot", "prototypes", "precision"]
        self.run("digits_trained", [trained], ["--protocols", *heads, "--data", "digits", *KNN, *FEW])

    def pictures(self) -> str:
        """The word for the small folder of images, which is made at the first call."""
        root = self.folder / "pictures"
        return f"pictures:imagefolder={root if root.exists() else inputs.image_folder(root)}"

    def golden(self) -> None:
        """The nets of tests/golden on a folder of images, at 224 px."""
        nets = [str(inputs.GOLDEN / name) for name in GOLDEN_NETS]
        knn = ["--knn.k", "1", "5", "10", "--knn.choose", "20", "--precision.k", "1", "5", "--precision.bins", "2"]
        words = ["--protocols", "knn", "linear", "fewshot", "prototypes", "precision", "--data", self.pictures(), *knn]
        words += ["--fewshot.percent", "0", *FEW, "--linear.fast", "--linear.epochs", "3", "--linear.lr", "0.01", "0.1"]
        self.run("golden", nets, [*words, "--num-heads", "3"])

    def augmented(self) -> None:
        """The linear probe on random crops."""
        words = ["--protocols", "linear", "--data", self.pictures(), "--linear.epochs", "3", "--linear.batch", "16"]
        self.run("augmented", [NET], [*words, "--linear.lr", "0.1", "1", "--linear.holdout", "0.25"])

    def finetune(self) -> None:
        """Two epochs by each recipe."""
        for recipe in ("small", "imagenet"):
            words = ["--protocols", "finetune", "--data", self.pictures(), "--finetune.recipe", recipe]
            words += ["--finetune.epochs", "2", "--finetune.batch", "16", "--finetune.group", "8"]
            words += ["--finetune.warmup-epochs", "1", "--finetune.lr", "1e-3"]
            self.run(f"finetune_{recipe}", [NET], words)

    def retrieval(self) -> None:
        """Rankings with a pyramid of scales, with crops, with whitening and distractors."""
        oxford = inputs.gallery(self.folder / "oxford", "roxford5k")
        paris = inputs.gallery(self.folder / "paris", "rparis6k", first=40)
        net = [str(inputs.GOLDEN / GOLDEN_NETS[0])]
        words = ["--num-heads", "3", "--protocols", "retrieval", "--data"]
        self.run("retrieval", net, [*words, f"roxford5k={oxford}", f"rparis6k={paris}"])
        more = ["--retrieval.whiten", f"rparis6k={paris}", "--retrieval.whiten-dims", "5"]
        more += ["--retrieval.distractors", str(paris / "jpg"), "--retrieval.pooling", "cls+gem"]
        self.run("retrieval_whitened", net, [*words, f"roxford5k={oxford}", *more, "--retrieval.preset", "official"])

    def vos(self) -> None:
        """Masks carried along two videos."""
        root, masks = inputs.videos(self.folder / "davis"), self.folder / "masks"
        net = [str(inputs.GOLDEN / GOLDEN_NETS[0])]
        words = ["--num-heads", "3", "--protocols", "vos", "--data", f"davis2017={root}"]
        self.run("vos", net, [*words, "--vos.size", "192", "--vos.save-masks", str(masks)])
        from PIL import Image

        for path in sorted(masks.rglob("*.png")):
            with Image.open(path) as image:
                self.record.array(f"vos/masks/{path.parent.name}/{path.stem}", np.asarray(image))

    def tables(self) -> None:
        """What has been measured so far in all formats, and tables of published numbers."""
        runs = str(self.folder / "runs")
        for form in ("md", "csv", "html", "latex", "terminal"):
            for group in ("digits", "golden", "finetune_small", "retrieval", "vos"):
                words = ["table", "--runs", f"{runs}/{group}", "--format", form]
                self.record.text(f"tables/{group}.{form}", command(words))
            words = ["table", "--published-only", "--layout", "paper/table2", "--format", form]
            self.record.text(f"tables/published.{form}", command(words))

    def nets(self) -> None:
        """Tokens and head outputs of the golden nets, and how far they are from the original code's."""
        import torch

        import evaltk

        golden = np.load(inputs.GOLDEN / "nets.npz")
        for name, asked in (("dino", ("dino_224", "dino_96", "dino_wide")), ("ibot", ("ibot",)), ("msn", ("msn",))):
            path = next(inputs.GOLDEN / file for file in GOLDEN_NETS if file.startswith(name))
            checkpoint = evaltk.load_checkpoint(path, num_heads=3)
            backbone, head = evaltk.build_backbone(checkpoint), evaltk.build_head(checkpoint)
            for key in asked:
                images = torch.from_numpy(golden[f"{key}_input" if name == "dino" else "ibot_msn_input"])
                tokens = backbone.tokens(images)[0]
                self.record.array(f"nets/{key}/cls", tokens.cls)
                self.record.array(f"nets/{key}/patches", tokens.patches)
                self.record.array(f"nets/{key}/embedded", head.embed(tokens.cls))

    def neighbours(self) -> None:
        """Neighbours among rows that are nearly equal, and among digits with noise."""
        import torch

        from evaltk import neighbours

        rng = np.random.default_rng(3)
        bank = rng.standard_normal((3_000, 48)).astype(np.float32)
        bank[1_000:2_000] = bank[:1_000] + 1e-6 * rng.standard_normal((1_000, 48)).astype(np.float32)
        bank[2_000:2_100] = bank[:100]
        queries = (bank[:300] + 0.3 * rng.standard_normal((300, 48))).astype(np.float32)
        given = {"near": (queries, bank)}
        golden = np.load(inputs.GOLDEN / "knn_input.npz")
        arrays = sorted((golden[key] for key in golden.files if golden[key].ndim == 2), key=len)
        given["digits"] = (arrays[0].astype(np.float32), arrays[1].astype(np.float32))
        for name, (few, many) in given.items():
            for metric in ("cosine", "dot"):
                similarity, index = neighbours.search(
                    torch.from_numpy(few),
                    torch.from_numpy(many),
                    20,
                    metric=metric,  # type: ignore[arg-type]
                )
                self.record.array(f"neighbours/{name} {metric}/similarity", similarity)
                self.record.array(f"neighbours/{name} {metric}/index", index)

    def logistic(self) -> None:
        """Softmax regressions on the digits' pixels: a fit, and the classes and margins of the digits left out."""
        import torch
        from sklearn.datasets import load_digits

        from evaltk import logistic

        found = load_digits()
        x, y = torch.from_numpy(found.data.astype(np.float32) / 16), torch.from_numpy(found.target.astype(np.int64))
        for l2 in (1e-3, 1.0, 100.0):
            model = logistic.fit(x[:1000], y[:1000], l2=l2, num_classes=10, intercept=True)
            logits = model.scores(x[1000:]).double()
            best = logits.topk(2, dim=1).values
            numbers: dict[str, Any] = {"weight": model.weight, "bias": model.bias, "objective": model.objective}
            numbers |= {"logits": logits, "predictions/class": logits.argmax(1), "iterations": model.iterations}
            numbers |= {"predictions/class.margin": best[:, 0] - best[:, 1]}
            for name, value in numbers.items():
                self.record.array(f"logistic/l2={l2:g}/{name}", value)

    def vmf(self) -> None:
        """The distribution's functions over five orders of magnitude of kappa."""
        import torch

        from evaltk import vmf

        kappa = torch.logspace(-2, 4, 200, dtype=torch.float64)
        cosine = torch.linspace(-1, 1, 40, dtype=torch.float64)[None]
        for dim in (3, 32, 256):
            for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
                k, c = kappa.to(dtype), cosine.to(dtype)
                self.record.array(f"vmf/{dim} {name}/log_normalizer", vmf.log_normalizer(k, dim))
                self.record.array(f"vmf/{dim} {name}/mean_resultant_length", vmf.mean_resultant_length(k, dim))
                self.record.array(f"vmf/{dim} {name}/log_density", vmf.log_density(c, k[:, None], dim))

    def metrics(self) -> None:
        """Scores of rankings, masks and clusters, and intervals, on drawn data."""
        from evaltk.metrics import clustering, retrieval, segmentation, statistics

        rng = np.random.default_rng(5)
        ranks = np.stack([rng.permutation(200) for _ in range(12)])
        gnd = [{"easy": [q, q + 20], "hard": [q + 40, q + 60], "junk": [q + 80]} for q in range(12)]
        self.record.tree("metrics/retrieval", retrieval.evaluate(ranks, gnd))
        y, x = np.mgrid[:60, :80]
        truth = np.stack([np.hypot(y - 30, x - 30 - t) < 15 for t in range(6)])
        guess = np.stack([np.hypot(y - 28 - t, x - 32) < 14 for t in range(6)])
        self.record.array("metrics/segmentation/J", segmentation.region_similarity(truth, guess))
        self.record.array("metrics/segmentation/F", segmentation.boundary_similarity(truth, guess))
        found = clustering.agreement(rng.integers(0, 20, 500), rng.integers(0, 10, 500), 20)
        for name in getattr(found, "__slots__", ()) or vars(found):
            self.record.array(f"metrics/clustering/{name}", getattr(found, name))
        for method in ("bca", "percentile"):
            estimate = statistics.bootstrap_interval(
                rng.beta(2, 5, 70),
                rng=np.random.default_rng(6),
                method=method,
                resamples=2_000,  # type: ignore[arg-type]
            )
            for name in getattr(estimate, "__slots__", ()) or vars(estimate):
                self.record.array(
                    f"metrics/bootstrap {method}/{name}", np.asarray(getattr(estimate, name), dtype=float)
                )
        self.record.array("metrics/wilson", statistics.wilson_interval(713, 797))

    def duplicates(self) -> None:
        """Near-copies by all readings: of matrices drawn with copies, and of the golden nets' prototypes."""
        rng = np.random.default_rng(8)
        matrix = rng.standard_normal((600, 16)).astype(np.float32)
        matrix[300:500] = matrix[:200] + 0.1 * rng.standard_normal((200, 16)).astype(np.float32)
        matrix[500:] = matrix[:100]
        np.save(self.folder / "matrix.npy", matrix)
        given = [["--matrix", str(self.folder / "matrix.npy")]]
        given += [["--matrix", str(inputs.GOLDEN / name), "--num-heads", "3"] for name in GOLDEN_NETS]
        for words in given:
            told = command(["score", "prototypes", *words, "--json"])
            self.record.tree(f"duplicates/{Path(words[1]).name}", json.loads(told))
