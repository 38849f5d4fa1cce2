"""`plaudit evaluate frontier` from the sources to the files: find, sample, score, analyse, write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plaudit.config.schema import RewardSection, RolloutSection
from plaudit.data.prepare import prepare
from plaudit.data.recordset import Sources, source_list
from plaudit.engines.base import Sampling
from plaudit.errors import ConfigError, EvaluationError
from plaudit.evaluation.frontier.analysis import Answers, frontier
from plaudit.evaluation.frontier.logged import logged_frontier
from plaudit.evaluation.frontier.overlap import overlap_note
from plaudit.evaluation.frontier.page import frontier_page
from plaudit.evaluation.frontier.points import Place, find_places
from plaudit.evaluation.frontier.results import Frontier
from plaudit.evaluation.frontier.sampled import Judged, Reference, Work
from plaudit.evaluation.reward_run import source_names
from plaudit.inference.locate import Located, load_located, locate, start_of
from plaudit.inference.sampling import Sampler, sampling_options, with_stops
from plaudit.online.scoring import check_columns, read_reward
from plaudit.rewards.spec import RewardSpec, read_specs
from plaudit.runs import jsonl
from plaudit.runs.rundir import CONFIG_NAME, read_config

RESULT_NAME = "frontier.json"
PAGE_NAME = "frontier.html"
ANSWERS = "answers"
BEST_OF = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Options:
    """How a frontier is measured.

    Attributes:
        n: answers of every model to a prompt.
        best_of: numbers n of the second curve; empty = none.
        pool: answers of the reference to a prompt; None = the largest of n and best_of.
        temperature, max_new_tokens: of all answers; None = those of the run.
        seed: of sampling and of the intervals.
        reference: model that KL and gains are taken against; None = the one that the run started from.
        system: system prompt for conversations that have none; None = the run's.
        base: of adapters that do not name it.
        overwrite: sample and score anew, whatever is there.
    """

    n: int = 4
    best_of: Sequence[int] = BEST_OF
    pool: int | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    reference: str | Path | None = None
    system: str | None = None
    base: str | None = None
    precision: str = "auto"
    overwrite: bool = False

    def checked(self) -> Options:
        """Raise ConfigError PL102 for what cannot be."""
        best_of = tuple(sorted(set(self.best_of)))
        if self.n < 1 or any(n < 1 for n in best_of):
            raise ConfigError(
                "PL102", "numbers of answers are at least 1", where="--n, --best-of", mend="give 1 or more"
            )
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(
                "PL102",
                f"temperature is {self.temperature:g}: the most likely answers are no sample, and have no KL",
                where="--temperature",
                mend="give a number above 0; 1 is the model itself",
            )
        if self.pool is not None and self.pool < max(best_of, default=1):
            raise ConfigError(
                "PL102",
                f"the best of {max(best_of)} cannot be chosen among {self.pool} answers",
                where="--pool",
                mend="raise it, or lower --best-of",
            )
        return self

    @property
    def of_reference(self) -> int:
        """Answers of the reference to a prompt."""
        return self.pool or max(self.n, *self.best_of, 1)


def evaluate_frontier_sources(
    models: Any,
    data: Any,
    proxy: Any,
    gold: Any,
    options: Options,
    output: Path | None,
    *,
    from_log: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Frontier:
    """What `plaudit.api.evaluate_frontier` promises; see there."""
    named = _listed(models)
    if not named:
        raise ConfigError(
            "PL102",
            "no model is named",
            mend="plaudit evaluate frontier RUN --data FILE --gold REWARD",
            where="plaudit evaluate frontier",
        )
    if from_log:
        _check_unused(options, data=data, proxy=proxy, gold=gold)
        return _from_log(named, output)
    if data is None or (isinstance(data, (list, tuple)) and not data):
        raise ConfigError(
            "PL102", "no prompts are named", where="--data", mend="give held-out prompts, or --from-log to draw a log"
        )
    options = options.checked()
    places = find_places(named)
    run = next((p.run for p in places if p.run is not None), None)
    specs = {"proxy": _spec("proxy", _listed(proxy), run), "gold": _spec("gold", _listed(gold), run)}
    given = {name for name, values in (("proxy", proxy), ("gold", gold)) if _listed(values)}
    located = _reference(options, places)
    folder = default_folder(named[0], source_names(data)) if output is None else output
    check_folder(folder)
    try:
        say = on_message or (lambda _: None)
        found = _measured(places, located, data, specs, options, folder, given, on_progress, say)
        found.about = {"models": [str(m) for m in named], **found.about}
        return write_frontier(found, folder)
    finally:
        for spec in specs.values():
            spec.reward.close()


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _check_unused(options: Options, **given: Any) -> None:
    """Raise ConfigError PL102 for what a log has no use for."""
    plain = Options()
    names = [name for name, value in given.items() if value is not None and _listed(value)]
    names += [f.name for f in fields(Options) if getattr(options, f.name) != getattr(plain, f.name)]
    if names:
        raise ConfigError(
            "PL102",
            f"{', '.join(names)} has no effect: with --from-log nothing is sampled or scored",
            where="--from-log",
            mend="leave it out, or leave out --from-log",
        )


def _from_log(models: Sequence[Any], output: Path | None) -> Frontier:
    if len(models) > 1:
        raise ConfigError("PL102", "a log is of one run", where="--from-log", mend="name one run directory")
    path = Path(models[0]).expanduser()
    found = logged_frontier(path)
    folder = path / "evaluations" / "frontier-log" if output is None else output
    check_folder(folder)
    found.about = {"models": [str(path)], "reference": "the run's own", "data": [], "from_log": True}
    found.notes += _about_points(found)
    return write_frontier(found, folder)


def _measured(
    places: Sequence[Place],
    located: tuple[str, Located],
    data: Sources,
    specs: dict[str, RewardSpec],
    options: Options,
    folder: Path,
    given: Set[str],
    on_progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> Frontier:
    name, where = located
    system = options.system or where.system_prompt
    loaded = load_located(where)
    sampler = Sampler(loaded, system=system)
    say(f"reference {name}: {sampler.note}")

    def read(of: Sampler) -> Any:
        return prepare(source_list(data), "prompt", of.renderer).groups

    reference = Reference(name, loaded, sampler, read(sampler), read)
    named = ", ".join(source_names(data)) or "the rows"
    for spec in specs.values():
        check_columns(spec, reference.prompts, named)
    sampling = with_stops(_sampling(options, places), sampler.renderer)
    runs = {p.run.resolve(): p.run for p in places if p.run is not None}
    warnings = [note for run in runs.values() if (note := overlap_note(run, loaded, reference.prompts))]
    borrowed = _borrowed(options, places, given)
    for note in warnings + borrowed:
        say(f"warning: {note}")
    total = len(reference.prompts) * (options.of_reference + options.n * len(places))
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if on_progress is not None:
            on_progress(done, total)

    answers_folder = folder / ANSWERS
    with jsonl.writing(answers_folder):
        answers_folder.mkdir(parents=True, exist_ok=True)
    work = Work(
        reference=reference,
        rewards={key: Judged(spec) for key, spec in specs.items()},
        sampling=sampling,
        folder=answers_folder,
        overwrite=options.overwrite,
        system=system,
        base=options.base,
        precision=options.precision,
        tell=tell,
        say=say,
    )
    start = work.reference_answers(options.of_reference)
    points = [work.answers(place, options.n) for place in places]
    about = {
        "folders": [str(p.folder) for p in places],
        "reference": name,
        "data": source_names(data),
        "prompts": len(reference.prompts),
        "proxy": specs["proxy"].about,
        "gold": specs["gold"].about,
        "n": options.n,
        "pool": options.of_reference,
        "sampling": sampling.model_dump(mode="json"),
    }
    notes = warnings + borrowed + _notes(start, points, specs, work, len(reference.prompts))
    return _finished(start, points, options, about, notes, folder)


def _finished(
    start: Answers, points: Sequence[Answers], options: Options, about: dict[str, Any], notes: list[str], folder: Path
) -> Frontier:
    try:
        found = frontier(start, points, sorted(set(options.best_of)), seed=options.seed)
    except ValueError as error:
        raise EvaluationError(
            "PL801",
            f"there is no frontier: {error}",
            where=str(folder),
            mend=f"look into {ANSWERS}/ for why answers have no reward, mend it, and give the same command again",
        ) from error
    found.about = about
    found.notes = notes + _about_points(found)
    return found


# ---------------------------------------------------------------- what was asked for


def _spec(name: str, given: Sequence[Any], run: Path | None) -> RewardSpec:
    """The reward that is named; else the run's own: what it was trained with, or what it has watched as gold."""
    if given:
        return read_specs(list(given))
    values = {} if run is None else read_config(run)
    section = values.get("reward") if name == "proxy" else (values.get("watch") or {}).get("gold")
    spec = read_reward(RewardSection.model_validate(section)) if section else None
    if spec is not None:
        return spec
    if name == "gold":
        raise ConfigError(
            "PL102",
            "no gold reward is named: nothing says what the proxy stands for",
            where="--gold",
            mend="give any reward that `plaudit score` takes and that the training has not seen: a larger reward "
            "model, a judge, a verifier",
        )
    raise ConfigError(
        "PL102",
        "no proxy reward is named, and no run says what it was trained with",
        where="--proxy",
        mend="give the reward that was optimised",
    )


def _reference(options: Options, places: Sequence[Place]) -> tuple[str, Located]:
    if options.reference is not None:
        base = options.base if (Path(options.reference).expanduser() / "adapter_config.json").is_file() else None
        return str(options.reference), locate(options.reference, base=base, precision=options.precision)
    runs = {p.run.resolve() for p in places if p.run is not None}
    starts = {(s.config.path, str(s.adapter or "")): s for r in runs if (s := start_of(r, precision=options.precision))}
    if len(starts) == 1 and all(p.run is not None for p in places):
        (path, adapter), start = next(iter(starts.items()))
        return (f"{path} with {adapter}" if adapter else path), start
    what = "the models are of runs with other starts" if starts else "the models lie in no run"
    raise ConfigError(
        "PL102",
        f"{what}, so nothing says which model KL is taken against",
        where="--reference",
        mend="name the model that the training started from",
    )


def _sampling(options: Options, places: Sequence[Place]) -> Sampling:
    """As the first run sampled, without its filters: what they cut off has no log-prob in the reference."""
    run = next((p.run for p in places if p.run is not None), None)
    section = {} if run is None else read_config(run).get("rollout") or {}
    rollout = RolloutSection.model_validate(section)
    return sampling_options(
        temperature=rollout.temperature if options.temperature is None else options.temperature,
        max_new_tokens=options.max_new_tokens or rollout.max_new_tokens,
        min_new_tokens=0,
        stop=rollout.stop,
        seed=options.seed,
    )


def _borrowed(options: Options, places: Sequence[Place], given: Set[str]) -> list[str]:
    """What is taken from the first run, where another run has it otherwise: all are measured alike, and nothing else
    says by what.

    Args:
        given: rewards that are named.
    """
    runs = {p.curve: read_config(p.run) for p in places if p.run is not None}
    if len(runs) < 2:
        return []
    first = next(iter(runs))
    found = []
    for what, option, keys in (
        ("proxy", "--proxy", ("reward",)),
        ("gold", "--gold", ("watch", "gold")),
        ("temperature", "--temperature", ("rollout", "temperature")),
        ("max_new_tokens", "--max-new-tokens", ("rollout", "max_new_tokens")),
    ):
        own = {name: _at(values, keys) for name, values in runs.items()}
        others = [name for name, value in own.items() if value != own[first]]
        if others and what not in given and getattr(options, what, None) is None:
            found.append(f"{what} is that of {first}, and not that of {', '.join(others)}: name one with {option}")
    return found


def _at(values: Any, keys: Sequence[str]) -> Any:
    """What a configuration says there; None where it has no such section."""
    for key in keys:
        values = (values or {}).get(key)
    return values


def _notes(
    start: Answers, points: Sequence[Answers], specs: dict[str, RewardSpec], work: Work, prompts: int
) -> list[str]:
    found = []
    if specs["proxy"].identity() == specs["gold"].identity():
        found.append("proxy and gold are the same reward: there is nothing to be seen between them")
    failed = sum(int((~m.usable_GK).sum()) for m in (start, *points))
    if failed:
        answers = sum(m.proxy_GK.size for m in (start, *points))
        found.append(
            f"{failed:,} of {answers:,} answers lack a reward and are left out; {ANSWERS}/ says why. The same command "
            "scores again what may pass"
        )
    if work.mended:
        found.append(f"{work.mended:,} answers had failed to be scored in an earlier call and were scored again")
    if prompts < 30:
        found.append(f"there are {prompts} prompts only: the intervals are too narrow for fewer than about 30")
    return found


def _about_points(found: Frontier) -> list[str]:
    notes = []
    if found.start.left_out:
        notes.append(
            f"{found.start.left_out:,} prompts are left out: some model has no answer with both rewards to them"
        )
    fewer = [f"{p.prompts:,} at n = {p.n}" for p in found.best_of if p.prompts < found.start.prompts]
    if fewer:
        notes.append(f"along the best-of-n curve prompts with fewer answers drop out: {', '.join(fewer)}")
    small = [p.name for p in found.points if p.kl.value <= 0 or -math.inf < p.kl.low <= 0]
    if small:
        notes.append(f"the KL of {', '.join(small)} cannot be told from 0 (its interval holds 0), so no fit has it")
    return notes


# ---------------------------------------------------------------- files


def default_folder(model: str | Path, data: Sequence[str]) -> Path:
    """In the run directory of the model, else in `evaluations`; the same each time, so that a command goes on."""
    named = re.sub(r"[^\w.-]+", "-", Path(data[0]).stem if data else "rows").strip("-.") or "rows"
    path = Path(model).expanduser()
    root = path if (path / CONFIG_NAME).is_file() else Path()
    return root / "evaluations" / f"frontier-{named}"


def check_folder(folder: Path) -> None:
    """Before a model is loaded: the folder must be new, empty, or hold a frontier.

    Raises:
        EvaluationError: PL803.
    """
    ours = any((folder / name).exists() for name in (RESULT_NAME, ANSWERS))
    if folder.exists() and not (folder.is_dir() and (ours or not any(folder.iterdir()))):
        raise EvaluationError(
            "PL803",
            "the folder is not empty and holds no frontier" if folder.is_dir() else "this is no folder",
            where=str(folder),
            mend="name another folder with --output",
        )


def write_frontier(found: Frontier, folder: Path) -> Frontier:
    """Write frontier.json and frontier.html.

    Raises:
        RunError: PL505, they cannot be written.
    """
    with jsonl.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    jsonl.write_atomically(folder / PAGE_NAME, frontier_page(found))
    jsonl.write_atomically(folder / RESULT_NAME, jsonl.dumps(found.to_json(), indent=2) + "\n")
    found.folder = folder
    return found
