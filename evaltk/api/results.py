"""Results of `evaltk.evaluate`: they print as tables, and are written like those of `evaltk run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk import results
from evaltk.errors import SettingsError, StorageError, nearest, some
from evaltk.types import Result, Score

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from reports.table import Table

STYLE = (
    "<style>.evaltk-results caption { text-align: left; font-weight: bold; padding-top: 1em; }\n"
    ".evaltk-results td, .evaltk-results th { text-align: right; white-space: nowrap;"
    " padding: 0.2em 0.8em; }\n"
    ".evaltk-results th[scope=row] { text-align: left; }</style>"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One result and its per-image predictions {name: array with one row per image}."""

    result: Result
    predictions: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """Results, in the order they were measured or found: a sequence of `evaltk.types.Result`."""

    measured: tuple[Measured, ...]

    def __len__(self) -> int:
        return len(self.measured)

    def __iter__(self) -> Iterator[Result]:
        return (one.result for one in self.measured)

    def __getitem__(self, protocol: int | str) -> Result:
        """A result by its protocol's name or place. Raises: SettingsError: no such protocol among them."""
        if isinstance(protocol, int):
            return self.measured[protocol].result
        for result in self:
            if result.protocol == protocol:
                return result
        do = nearest(protocol, [r.protocol for r in self])
        raise SettingsError(wanted="a protocol of these results", got=repr(protocol), where="results", do=do)

    def scores(self, protocol: str, metric: str, **at: object) -> list[Score]:
        """The scores of a metric that hold at the settings `at`, e.g. ``scores("knn", "top1", k=20)``."""
        found = [s for s in self[protocol].scores if s.metric == metric]
        return [s for s in found if all(s.at.get(key) == value for key, value in at.items())]

    def value(self, protocol: str, metric: str, **at: object) -> float:
        """The one score of a metric at the settings `at`, a fraction. Raises: SettingsError: none, or several."""
        found = self.scores(protocol, metric, **at)
        if len(found) != 1:
            known = dict.fromkeys(s.metric for s in self[protocol].scores)
            got = some([f"at {dict(s.at)}" for s in found], 3) if found else f"none; metrics: {', '.join(known)}"
            do = "name its settings, e.g. k=20" if found else "choose one of these"
            raise SettingsError(wanted=f"one score {metric}", got=got, where=f"results of {protocol}", do=do)
        return found[0].value

    def table(self) -> pd.DataFrame:
        """One row per score: checkpoint, protocol, dataset, split, metric, at (its settings), value, low, high, n.

        Values are fractions; low and high are the 95 % interval.
        """
        import pandas as pd

        return pd.DataFrame([_row(result, score) for result in self for score in result.scores])

    def save(self, folder: str | Path) -> list[Path]:
        """Write each result, and its predictions beside it, where `evaltk run --out FOLDER` writes them.

        Returns: the result files. Raises: StorageError: no room, or no right to write.
        """
        written = []
        for one in self.measured:
            result = one.result
            name = str(result.checkpoint["name"])
            path = results.path_of(Path(folder), name, result.protocol, result.data.name, result.request)
            results.prepare(path)
            results.write(path, result, one.predictions)
            written.append(path)
        return written

    def __str__(self) -> str:
        return self._rendered("md").rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The tables for a notebook."""
        return f'<div class="evaltk-results">\n{STYLE}\n{self._rendered("html")}</div>\n'

    def to_pandas(self) -> pd.DataFrame:
        """The result view: one row per model, one column per task, in the order of `evaltk table`.

        Values are fractions where the table shows percent. `table` has one row per score.
        """
        import pandas as pd

        columns: dict[str, dict[str, object]] = {}
        for table in self._view():
            for label, cells in table.rows:
                for title, cell in zip(table.titles(), cells, strict=True):
                    columns.setdefault(title, {})[label] = cell.note or cell.value
        frame = pd.DataFrame(columns)
        frame.index.name = "model"
        return frame

    def _view(self) -> list[Table]:
        from reports import layouts
        from reports.tables.build import build_tables

        beside = {id(one.result): one.predictions for one in self.measured}

        def predictions(result: Result, names: Any) -> Mapping[str, np.ndarray]:
            found = beside[id(result)]
            known = found.named(names) if isinstance(found, OfFile) else found
            return {name: known[name] for name in names if name in known}

        return build_tables(layouts.load("summary"), list(self), predictions=predictions, notes=False)

    def _rendered(self, form: str) -> str:
        from reports.formats import render

        return render.render_all(self._view(), form)


class OfFile(Mapping[str, "np.ndarray"]):
    """The predictions beside a result file, read when they are asked for. Raises: StorageError: a damaged file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def named(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of the arrays that are there."""
        return results.read_predictions(self._path, names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.named([name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(results.read_predictions(self._path))

    def __len__(self) -> int:
        return len(results.read_predictions(self._path))


def load_results(folder: str | Path) -> Results:
    """The results below a folder, as `evaltk run --out FOLDER` writes them; other JSON files are left out.

    Raises: StorageError: no such folder, or no results in it.
    """
    found = list(results.find(Path(folder).expanduser()))
    if not found:
        raise StorageError(wanted="results", got="none", where=folder, do="evaltk run CKPT --data ... --out FOLDER")
    return Results(tuple(Measured(result=result, predictions=OfFile(path)) for path, result in found))


def _row(result: Result, score: Score) -> dict[str, object]:
    low, high = score.interval or (None, None)
    row: dict[str, object] = {"checkpoint": result.checkpoint["name"], "protocol": result.protocol}
    row |= {"dataset": score.dataset, "split": score.split, "metric": score.metric}
    at = ", ".join(f"{name} {value}" for name, value in score.at.items())
    return row | {"at": at, "value": score.value, "low": low, "high": high, "n": score.n}
