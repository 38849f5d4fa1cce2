"""`python -m plaudit`, for launchers that start a module: torchrun --nproc-per-node 2 -m plaudit dpo config.yaml"""

from __future__ import annotations

from plaudit.cli import main

if __name__ == "__main__":
    main()
