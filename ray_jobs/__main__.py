"""`python -m ray_jobs` is the console script `emoji-ldm`."""

from ray_jobs.cli.main import main

raise SystemExit(main())
