"""Names that are no folders: whether the hub has such a model, asked once, before libraries ask for every file."""

from __future__ import annotations

import logging
from pathlib import Path

from plaudit.config.paths import similar
from plaudit.errors import ModelError


def ask_for(name: str, revision: str | None) -> None:
    """Make sure that a model can be had.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: PL301, there is no such folder, and the hub has no such model, or does not answer.
    """
    if Path(name).exists():
        return
    from huggingface_hub import errors, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # or every repeated request would be told
    try:
        hf_hub_download(name, "config.json", revision=revision)
    except errors.LocalEntryNotFoundError as error:
        raise _missing(name, "cannot be reached", "go online once, or give a local folder") from error
    except errors.EntryNotFoundError:
        return  # who needs the file will say so
    except errors.GatedRepoError as error:
        how = f"ask for access at https://huggingface.co/{name}, then `hf auth login`"
        raise _missing(name, "gives this model only to those who were granted access", how) from error
    except errors.RevisionNotFoundError as error:
        raise _missing(name, f"has no revision {revision!r} of this model", "check model.revision") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise _missing(name, "has no such model", "for a private one `hf auth login`") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise _missing(name, f"cannot be asked ({type(error).__name__})", "try again later") from error


def _missing(name: str, hub: str, mend: str) -> ModelError:
    near = similar(name)
    return ModelError(
        "PL301",
        f"there is no folder {name!r} here, and the hub {hub}",
        where="model.path",
        mend=f"did you mean {near}? " * (near is not None)
        + f"give a folder with config.json, a .gguf file or a hub id that this machine can reach; {mend}",
    )
