"""`python -m evaltk` is `evaltk`."""

from evaltk.cli import main

raise SystemExit(main())
