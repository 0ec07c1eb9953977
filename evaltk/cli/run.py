"""Evaluate checkpoints on datasets; finished results are skipped.

Examples:
    evaltk run dino_vits16 --protocols knn linear --data imagenet=/data/imagenet
    evaltk run mine.pth pixels:32 --data cifar10=/data/cifar10 --knn.k 10 20
    evaltk run mine.pth --data photos:imagefolder=~/photos --limit 500
    evaltk run suite.toml --device cuda
    evaltk run runs/vmf_s16 --watch --data cifar10=/data/cifar10
"""

from __future__ import annotations

from evaltk.checkpoints import locate
from evaltk.cli import _asked, _launched, _options, _watched
from evaltk.cli._session import Session


def main(argv: list[str]) -> int:
    """Run, print tables of the results to stdout, and log where they were written."""
    if not any(word in _options.HELP for word in argv):
        locate.check_first(argv)  # before the settings of all protocols are imported
    asked = _asked.asked(argv, "run", __doc__)
    if asked.options.watch:
        return _watched.follow(argv, asked, __doc__)
    from evaltk.checkpoints import fetching

    named = [name for plan in asked.suite.plans for name in plan.checkpoints]
    fetching.fetch_named(named, offline=asked.options.offline)
    todo = _asked.cells_of(asked)
    session = Session(asked.options)
    if asked.options.launcher:
        return _launched.launch(argv, todo, session)
    session.run(todo)
    return session.finish()
