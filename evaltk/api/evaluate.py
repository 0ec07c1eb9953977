"""Evaluate a net in memory, a checkpoint or a file from Python: `evaltk.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from evaltk import results
from evaltk.api import data as data_of
from evaltk.api import subjects
from evaltk.api.preparing import Spec
from evaltk.api.results import Measured, Results
from evaltk.api.subjects import Model, Subject
from evaltk.api.surroundings import in_python, settled, undisturbed
from evaltk.data.options import DataOptions
from evaltk.errors import SettingsError, nearest
from evaltk.running import runner
from evaltk.running.planning import Job, Plan, jobs_on, known_protocol


def evaluate(
    model: Model,
    data: Any,
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    transform: Spec | None = None,
    name: str | None = None,
    device: str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    split: float | None = None,
    data_name: str = "images",
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    skip_bad_images: int = 0,
) -> Results:
    """Measure a net by protocols, also in the middle of its training.

    A net in memory is put in eval mode and left as it was, also after an exception: modes, weights, random states. It
    runs without TF32 and autocast in the type of its weights. Processes that call this do not wait for each other.

    Args:
        model: an nn.Module or a function, ``images [B, 3, H, W] -> [B, D]`` or `Tokens`; a `Checkpoint`; or a path or
            name as on the command line, which gives the command's numbers.
        data: a folder with train/ and test/ or val/; a word of ``--data``; (train, test) of PyTorch datasets of
            (image, label), not normalised; one set of images with `split`; a dataset of evaltk's.
        protocols: names, see ``evaltk ls protocols``.
        transform: how images are prepared for a net in memory: ``dict(crop=, mean=, std=)``, optionally ``resize=`` and
            ``interpolation=``; a transform of torchvision's or timm's, or any function PIL image -> tensor [3, H, W].
            A timm model states it itself. For a checkpoint sizes only.
        name: of the net in results. device: for a checkpoint, or a function whose net cannot be seen.
        settings: {protocol: {setting: value}} or settings objects.
        out: folder to write results to, as ``evaltk run --out``; None: no files are left.
        split: share of one set of images to test on. data_name: name of PyTorch datasets in results.
        limit: smoke test on so many images per split. batch_size, workers, skip_bad_images: as on the command line.

    Raises: EvaltkError: what was wanted, what came, and what to do.
    """
    chosen = _chosen(protocols, settings or {})
    with undisturbed() as temporary:
        dataset = data_of.load(data, DataOptions(split=split, seed=seed), name=data_name)
        subject = subjects.of(model, transform, name=name, device=device)
        plan = Plan(
            checkpoints=(subject.word,),
            protocols=chosen,
            data=(),
            out=temporary / "runs" if out is None else Path(out).expanduser(),
            cache=temporary,
            seed=seed,
            device=device or "auto",
            images=subject.options,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            skip_bad_images=skip_bad_images,
        )
        with settled(), in_python():
            return _measured(replace(plan, **(subject.own or {})), subject, dataset)


def _measured(plan: Plan, subject: Subject, dataset: Any) -> Results:
    todo = jobs_on(plan, [(subject.word, subject.name, subject.asked)], [dataset])
    left = [job for job in todo if not (subject.kept and job.done())]
    for job in left:
        results.prepare(job.path)
    with subject.evaluating():
        if left:
            for _ in runner.measured(plan, left, subject.ready(plan, left)):
                pass
    return Results(tuple(_read(job) for job in todo))


def _read(job: Job) -> Measured:
    return Measured(result=results.read(job.path), predictions=results.read_predictions(job.path))


def _chosen(protocols: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """{protocol: its settings}. Raises: SettingsError: none, an unknown one, settings of another."""
    named = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if not named:
        raise SettingsError(wanted="protocols", got="none", where="protocols", do='protocols=("knn",)')
    found = {name: _settings(name, settings.get(name)) for name in named}
    if unknown := set(settings) - set(found):
        got = ", ".join(sorted(unknown))
        raise SettingsError(wanted="settings of the protocols", got=got, where="settings", do=nearest(got, found))
    return found


def _settings(protocol: str, given: Any) -> Any:
    """The settings of a protocol. Raises: SettingsError: no such protocol or setting."""
    kind = known_protocol(protocol).settings
    if given is None or isinstance(given, kind):
        return kind() if given is None else given
    known = tuple(f.name for f in fields(kind))
    if not isinstance(given, Mapping):
        where = f"settings[{protocol!r}]"
        raise SettingsError(wanted="{setting: value}", got=type(given).__name__, where=where, do=", ".join(known))
    for key in given:
        if key not in known:
            do = nearest(str(key), known)
            raise SettingsError(wanted=f"a setting of {protocol}", got=repr(key), where="settings", do=do)
    values = {k: _fixed(getattr(kind(), k), v) for k, v in given.items()}
    with in_python():
        return kind(**values)


def _fixed(default: object, value: object) -> object:
    """A value as the type of its default: one number, or a list, where settings hold tuples."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(default, tuple) and not isinstance(value, tuple) else value
