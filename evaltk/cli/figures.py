"""Draw figures of results and training runs as SVG, PDF or PNG.

Examples:
    evaltk figures --runs runs --out figures
    evaltk figures --runs runs --format svg pdf --no-theory
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaltk.cli import _options
from evaltk.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw figures.

    Attributes:
        runs: folder of results (evaltk run --out) and training runs (evaltk pretrain --out).
        out: folder to write figures to.
        format: svg, pdf, png.
        theory: also draw densities and log-normaliser of the vMF distribution.
    """

    runs: Path = Path("runs")
    out: Path = Path("figures")
    format: tuple[Literal["svg", "pdf", "png"], ...] = ("svg", "pdf")
    theory: bool = True


def main(argv: list[str]) -> int:
    """Write them and print their paths. Raises: StorageError: nothing that has figures, or no room to write."""
    options = _options.parse(Options, argv, "figures", __doc__)
    from evaltk import results
    from evaltk.progress import log
    from reports.figures import collect, course, style, training, training_log
    from reports.training import logs as training_runs

    written: list[Path] = []
    found, logs = results.find(options.runs), training_log.under(options.runs)
    for drawn in collect.of_results(found, logs=logs, complain=lambda error: log.warning("%s", error)):
        written += style.save(drawn.figure, options.out / drawn.name, options.format, title=drawn.title)
    for drawn in course.of_logs(training_log.courses_under(options.runs)):
        written += style.save(drawn.figure, options.out / drawn.name, options.format, title=drawn.title)
    for drawn in training.of_logs(training_runs.under(options.runs)):
        written += style.save(drawn.figure, options.out / drawn.name, options.format, title=drawn.title)
    if not written:
        raise StorageError(
            wanted="results with figures (knn, linear, vos, prototypes, precision, geometry ...) or trainings",
            got="none",
            where=options.runs,
            do="evaltk run CKPT --protocols knn prototypes --data ...",
        )
    if options.theory:
        written += _theory(options)
    print("\n".join(map(str, written)))
    return 0


def _theory(options: Options) -> list[Path]:
    from evaltk.prototypes import vmf_curves
    from reports.figures import style, vmf

    circle = vmf.circle(vmf_curves.circle_densities())
    normalizer = vmf.normalizer(vmf_curves.normalizer_curves())
    written = style.save(circle, options.out / "vmf-circle", options.format, title="vMF density on the circle")
    title = "log-normaliser of the vMF distribution"
    return written + style.save(normalizer, options.out / "vmf-normalizer", options.format, title=title)
