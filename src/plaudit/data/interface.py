"""What `plaudit.api` offers about data: `convert` and `doctor`. Importing this costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.data.convert_file import ConvertedRows
    from plaudit.data.doctor.checkup import Checkup


def convert(
    source: Any,
    output: str | Path | None = None,
    *,
    to: str,
    from_kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    pairs_per_prompt: int = 36,
    feedback_threshold: float | None = None,
    invalid: str = "error",
) -> ConvertedRows:
    """Turn pairs, rankings and feedback into each other, or the texts of rows into chat messages.

    Args:
        source: path or hub id, a list of dicts, or a `datasets.Dataset`; in any shape that training reads.
        output: .jsonl file to write; None only returns the rows.
        to: "feedback", "preference" (pairs) or "ranking"; or "messages": the same rows, of any kind, with each text as
            a message, so that it goes through the chat template.
        from_kind: what the rows are, in the same words, or "completion" or "prompt" where `to` is "messages"; None
            recognises it by their columns.
        columns: map from our field names to the file's column names.
        pairs_per_prompt: most pairs that one prompt becomes; 1 = best against worst.
        feedback_threshold: rankings with scores to feedback: an answer with at least this score is liked. None = the
            best is liked, the worst is not, those between are left out.
        invalid: "error", or "drop" for rows without content or signal.

    Returns:
        The rows, with counts of what was read, made and left out.

    Raises:
        PlauditError: PL102, PL2xx for the rows.
    """
    from plaudit.data.convert_file import check_output, convert_rows, write_rows

    if invalid not in ("error", "drop"):
        raise ConfigError("PL102", f"invalid is {invalid!r}", mend="use error or drop", where="invalid")
    if output is not None:
        check_output(Path(output))
    result = convert_rows(
        source,
        to,  # type: ignore[arg-type]  # checked there
        from_kind=from_kind,  # type: ignore[arg-type]
        columns=columns,
        pairs_per_prompt=pairs_per_prompt,
        feedback_threshold=feedback_threshold,
        invalid=invalid,  # type: ignore[arg-type]
    )
    if output is not None:
        write_rows(result.rows, Path(output))
    return result


def doctor(
    data: Any,
    *,
    against: Any = None,
    fix: str | Path | None = None,
    log: str | Path | None = None,
    overwrite: bool = False,
    keep: Sequence[str] = (),
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    workers: int | None = None,
) -> Checkup:
    """Find what is wrong with a data file, and write a cleaned copy of it.

    Args:
        data: path or hub id, a list of dicts, or a `datasets.Dataset`: pairs, feedback, rankings, demonstrations
            or prompts.
        against: evaluation data whose prompts must not be in it: one source, or a list of paths.
        fix: file for the cleaned copy, of the same form as the data (.jsonl for rows that come from no file).
        log: file for one line per removed or changed row; None is the copy's name with .log.jsonl.
        overwrite: replace `fix` and `log` if they exist. The data itself is never overwritten.
        keep: names of checks whose rows `fix` leaves as they are.
        kind: "preference", "feedback", "ranking", "completion" or "prompt"; None recognises it by the columns.
        columns: map from our field names to the file's column names.
        workers: processes; None is one per core where there are many rows.

    Returns:
        The findings with their verdicts; with `fix`, what was removed and changed, and the findings of the copy.

    Raises:
        PlauditError: PL102, PL2xx for the rows.
    """
    from plaudit.data.doctor.checkup import check_up

    return check_up(
        data,
        against=against,
        fix=fix,
        log=log,
        overwrite=overwrite,
        keep=keep,
        kind=kind,
        columns=columns,
        workers=workers,
    )


__all__ = ["convert", "doctor"]
