"""Models are read from disk by one thread at a time.

While transformers builds a model it replaces `PreTrainedModel.tie_weights` and torch's initialisers for the whole
process, and puts back what it found. Two threads that load at once may find each other's replacements and leave those
behind: from then on no model of the process has its embeddings tied. Rewards are loaded in threads, so this happens.
"""

from __future__ import annotations

import threading
from typing import Any

_LOADING = threading.RLock()


def from_pretrained(auto: Any, *args: Any, **kwargs: Any) -> Any:
    """`auto.from_pretrained(…)`, alone."""
    with _LOADING:
        return auto.from_pretrained(*args, **kwargs)
