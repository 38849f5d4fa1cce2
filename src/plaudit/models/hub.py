"""Names that are no folders: whether the hub has such a model, asked once, before libraries ask for every file."""

from __future__ import annotations

from pathlib import Path

from plaudit.config.hub import quieten
from plaudit.config.paths import meant, similar
from plaudit.errors import ModelError

_PATIENCE = 30
"""Seconds that the hub has for its first answer."""


def ask_for(name: str, revision: str | None, where: str = "model.path") -> None:
    """Make sure that a model can be had, unless some of it is on this machine already.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit on the hub.
        where: what named it, for messages.

    Raises:
        ModelError: PL301, there is no such folder, and the hub has no such model, or does not answer.
    """
    if Path(name).exists():
        return
    from huggingface_hub import HfApi, errors, hf_hub_download, try_to_load_from_cache

    quieten()
    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        HfApi().model_info(name, revision=revision, timeout=_PATIENCE)  # which does not try again for half a minute
        hf_hub_download(name, "config.json", revision=revision)
    except errors.GatedRepoError as error:
        how = f"ask for access at https://huggingface.co/{name}, then `hf auth login`"
        raise _missing(name, where, "gives this model only to those who were granted access", how) from error
    except errors.RevisionNotFoundError as error:
        raise _missing(name, where, f"has no revision {revision!r} of this model", "check model.revision") from error
    except errors.HFValidationError as error:  # a path
        raise ModelError("PL301", f"there is no folder {name!r}", where=where, mend=meant(name)) from error
    except errors.RepositoryNotFoundError as error:
        raise _missing(name, where, "has no such model", "for a private one: `hf auth login`") from error
    except errors.EntryNotFoundError:
        return  # who needs the file will say so
    except Exception as error:  # of the library that speaks HTTP, which is not the same in all versions
        mend = "go online once, or give a local folder or .gguf file"
        raise _missing(name, where, f"cannot be reached ({type(error).__name__})", mend) from error


def _missing(name: str, where: str, hub: str, mend: str) -> ModelError:
    near = similar(name)
    return ModelError(
        "PL301",
        f"there is no folder {name!r} here, and the hub {hub}",
        where=where,
        mend=(f"did you mean {near}? " if near is not None else "") + f"check the spelling; {mend}",
    )
