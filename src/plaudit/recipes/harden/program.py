"""The whole of `plaudit harden`: find, add, train again, measure; every step is gone on with where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.config.schema import SourceConfig
from plaudit.data.convert_file import json_lines
from plaudit.data.readers import read
from plaudit.data.recordset import read_records
from plaudit.errors import ConfigError
from plaudit.recipes.harden.cases import Cases, Place, comparisons_of, read_cases
from plaudit.recipes.harden.finding import Places, Search, find, scoring
from plaudit.recipes.harden.measuring import Yardstick, measure, pairs_of
from plaudit.recipes.harden.members import Member, Team, find_team, own_sources, recipe, recipe_of, train_member
from plaudit.recipes.harden.options import Options
from plaudit.recipes.harden.report import Found, Hardened, RoundReport, State
from plaudit.recipes.harden.scores import items_digest
from plaudit.recipes.harden.selection import Criterion
from plaudit.rewards.models.accuracy import Ranked
from plaudit.rewards.models.card import ENSEMBLE_FILE
from plaudit.runs import ledger
from plaudit.runs.jsonl import write_atomically
from plaudit.runs.lock import RunLock
from plaudit.runs.observer import Observer
from plaudit.runs.rundir import read_json

ABOUT, REPORT, ROWS = "harden.json", "report.json", "data.jsonl"
SECOND, ENSEMBLE = "second", "ensemble"


@dataclass(frozen=True, slots=True)
class Given:
    """What `harden` is given, besides its options."""

    reward: str
    policies: tuple[str, ...]
    output: Path
    data: Any = None
    eval_data: Any = None
    second: str | None = None
    config: str | None = None
    base: str | None = None

    def about(self) -> dict[str, Any]:
        """What decides about the files."""
        return {
            "reward": self.reward,
            "policies": list(self.policies),
            "second": self.second,
            "config": self.config,
            "base": self.base,
        }


@dataclass(slots=True)
class _Work:
    """A hardening that is under way."""

    given: Given
    options: Options
    team: Team
    sources: tuple[SourceConfig, ...]
    cases: Cases
    ranked: Ranked
    pairs_held_out: bool
    criterion: Criterion
    observers: Sequence[Observer]
    say: Callable[[str], None]
    report: Hardened
    found: list[Found] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.given.output


def run(
    given: Given,
    options: Options,
    *,
    observers: Sequence[Observer] = (),
    on_message: Callable[[str], None] | None = None,
) -> Hardened:
    """Harden a reward model; see `plaudit.recipes.interface.harden`."""
    options.check()
    say = on_message or (lambda _: None)
    if not given.policies:
        raise ConfigError("PL102", "no policy is given", mend="name the models whose answers are looked at: --policy")
    _check_output(given.output)
    lock = RunLock(given.output)
    try:
        return _run(given, options, observers, say)
    finally:
        lock.release()


def _check_output(output: Path) -> None:
    """Made, empty, or begun by an earlier call."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        begun = (output / ABOUT).exists()
        foreign = not begun and any(not f.name.startswith(".") and f.name != ROWS for f in output.iterdir())
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the output folder cannot be made: {error.strerror}",
            where=str(output),
            mend="name another folder",
        ) from error
    if foreign:
        raise ConfigError(
            "PL102", "the folder holds something else", where=str(output), mend="name a folder that is new or empty"
        )


def _run(given: Given, options: Options, observers: Sequence[Observer], say: Callable[[str], None]) -> Hardened:
    team = find_team(given.reward, config=given.config, base=given.base)
    _check_team(team, given, options)
    sources = _sources(given, team)
    own = _held_out_rows(team.members[0], sources)
    cases = read_cases(
        list(sources),
        held_out=options.held_out,
        own_held_out=own,
        limit=options.max_prompts,
        invalid=options.invalid,
    )
    _check_about(given, options, cases)
    for note in cases.notes:
        say(note)
    ranked, fresh = _ranked(given, team.members[0], sources, own, options)
    criterion: Criterion = options.criterion or ("mean" if len(team.members) > 1 else "first")
    report = Hardened(given.output, notes=list(cases.notes), pairs_held_out=fresh)
    report.pairs = sum(len(pairs) for _, pairs in ranked)
    work = _Work(given, options, team, sources, cases, ranked, fresh, criterion, observers, say, report)
    if len(team.members) == 1:
        work.team = team.moved([team.members[0], _second(work)])
    _rounds(work)
    _judge(work)
    write_atomically(given.output / REPORT, json.dumps(report.as_json(), indent=2) + "\n")
    return report


# -- before anything is computed


def _check_team(team: Team, given: Given, options: Options) -> None:
    first = team.members[0]
    if len(team.members) > 1 and given.second is not None:
        raise ConfigError(
            "PL102", "the reward model is an ensemble: its members disagree, and a second model has no effect",
            where="second", mend="leave --second out",
        )  # fmt: skip
    missing = [m.source for m in team.members if m.recipe is None]
    if missing and not options.find_only:
        raise ConfigError(
            "PL102",
            "it is not known how the reward model was trained, so it cannot be trained again",
            where=", ".join(missing),
            mend="give its run instead of its folder, or its training with --config, or stop before it with "
            "--find-only",
        )
    if len(team.members) == 1 and given.second is None and first.recipe is None:
        raise ConfigError(
            "PL102",
            "a single reward model has nobody to disagree with, and it is not known how to train a second one",
            where=first.source,
            mend="give another model with --second, or its training with --config",
        )
    for member in team.members:
        if member.recipe is not None and not (options.find_only and given.second is not None):
            recipe(member)


def _sources(given: Given, team: Team) -> tuple[SourceConfig, ...]:
    """The pairs, as files: rows in memory are written down."""
    if given.data is None:
        found = own_sources(team.members[0])
        if found is None:
            raise ConfigError(
                "PL102",
                "it is not known which pairs the reward model was trained on",
                where=team.members[0].source,
                mend="name them with --data",
            )
        return found
    return _as_files(given.data, given.output / ROWS)


def _as_files(data: Any, file: Path) -> tuple[SourceConfig, ...]:
    if isinstance(data, (str, Path, SourceConfig)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(d, (str, Path, SourceConfig)) for d in data):
        return tuple(d if isinstance(d, SourceConfig) else SourceConfig(path=str(d)) for d in data)
    text = "".join(json_lines(row for _, row in read(data).rows))
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ConfigError("PL102", "the folder holds other rows", where=str(file), mend="name another folder")
    write_atomically(file, text)
    return (SourceConfig(path=str(file)),)


def _held_out_rows(first: Member, sources: Sequence[SourceConfig]) -> set[Place]:
    """Rows that the run holds out of its own data, as training finds them."""
    if first.recipe is None or not recipe(first).run.data.eval_fraction:
        return set()
    from plaudit.data.prepare import prepare
    from plaudit.data.render import Renderer
    from plaudit.data.splits import split_by_prompt
    from plaudit.models.load import load_tokenizer

    run = recipe(first).run
    renderer = Renderer(load_tokenizer(run.model), None, run.data.system_prompt)
    groups = prepare(list(sources), "ranking", renderer, invalid=run.data.invalid, max_drop_fraction=1.0).groups
    held_out = [groups[i].source for i in split_by_prompt(groups, run.data.eval_fraction)[1]]
    return {(s.file, s.row) for s in held_out if s is not None}


def _ranked(
    given: Given, first: Member, sources: Sequence[SourceConfig], own: Collection[Place], options: Options
) -> tuple[Ranked, bool]:
    """The comparisons that accuracy is measured on, and whether neither training has seen them."""
    from plaudit.config.report import MEMORY

    evaluated: Any = given.eval_data
    if evaluated is None and first.recipe is not None:
        evaluated = [s for s in recipe(first).run.data.eval if s.path != MEMORY]
    if evaluated:
        found = read_records(evaluated, "ranking", has_template=True, invalid=options.invalid)
        return comparisons_of(found), True
    found = read_records(list(sources), "ranking", has_template=True, invalid=options.invalid)
    return comparisons_of(found, own or None), bool(own)


def _check_about(given: Given, options: Options, cases: Cases) -> None:
    """Compare with what an earlier call has begun in the folder."""
    items = [(c.prompt, [*c.chosen, *c.rejected]) for c in cases.cases]
    sides = "".join(str(int(c.held_out)) for c in cases.cases)
    about = {**given.about(), **options.about(), "data": items_digest(items), "sides": sides}
    mine = json.loads(json.dumps(about))
    file = given.output / ABOUT
    theirs = read_json(file)
    if theirs is not None:
        other = [key for key in mine if theirs.get(key) != mine[key]]
        if other:
            raise ConfigError(
                "PL102",
                f"the folder holds the hardening of another command: other {', '.join(other)}",
                where=str(given.output),
                mend="give the same command to go on, or name another folder",
            )
    write_atomically(file, json.dumps(mine, indent=2) + "\n")
    event = "started" if theirs is None else "resumed"
    ledger.append_event(given.output / ledger.LEDGER_NAME, event, {"find_only": options.find_only})


def _second(work: _Work) -> Member:
    """The model that disagrees with a single one: given, or trained on the same data in another order."""
    first, given = work.team.members[0], work.given
    if given.second is not None:
        return Member(SECOND, given.second, recipe_of(given.second), given.base)
    seed = recipe(first).run.train.seed + 1
    work.say(f"training a second reward model with seed {seed}")
    work.report.notes.append(f"the second reward model was trained like the first, with seed {seed}")
    return train_member(first, work.output / SECOND, work.sources, seed=seed, observers=work.observers)


# -- rounds


def _rounds(work: _Work) -> None:
    start, options = work.team, work.options
    more: list[SourceConfig] = []
    for number in range(1, options.rounds + 1):
        places = Places.of(work.output, number)
        search = Search(
            number,
            work.given.policies,
            work.team.members,
            work.cases.cases,
            work.criterion,
            options,
            work.cases.files,
        )
        found = find(search, places, work.say)
        entry = RoundReport(found)
        work.report.rounds.append(entry)
        work.report.adversarial.append(places.adversarial)
        if options.find_only:
            _log(work, "found", added=found.added, held_out=found.held_out)
            return
        trained = pairs_of(places.adversarial)
        if not trained:
            work.report.notes.append(f"round {number}: there is no adversarial pair to train on")
            _log(work, "found nothing", round=number)
            return
        if len(trained) != found.added:
            work.report.notes.append(
                f"{places.adversarial.name} has {len(trained)} pairs, and {found.added} were found: it was edited"
            )
        more.append(SourceConfig(path=str(places.adversarial), weight=options.weight))
        yardstick = Yardstick(work.cases.cases, work.ranked, pairs_of(places.held_out), trained)
        entry.before = _state(work, work.team, yardstick, places, "before")
        work.team = _trained(work, start, more, number)
        entry.after = _state(work, work.team, yardstick, places, "after")
        _log(work, "hardened", round=number, pairs=len(trained), members=[m.source for m in work.team.members])
    work.report.reward = _result(work)
    work.report.members = [m.source for m in work.team.members]


def _state(work: _Work, team: Team, yardstick: Yardstick, places: Places, name: str) -> State:
    return measure(
        team.members,
        yardstick,
        work.criterion,
        places.folder,
        name,
        options=scoring(work.options),
        precision=work.options.precision,
        on_message=work.say,
    )


def _trained(work: _Work, start: Team, more: Sequence[SourceConfig], number: int) -> Team:
    """All members trained anew from where they started, on the data and on all that was found so far."""
    last = number == work.options.rounds
    folder = work.output if last else work.output / f"round-{number}"
    found = []
    for member in start.members:
        if member.recipe is None:
            work.say(f"{member.source} stays as it is: it is not known how it was trained")
            found.append(member)
            continue
        name = f"hardened-{SECOND}" if member.name == SECOND else member.name
        work.say(f"round {number}: training {folder / name} with {len(more)} files of adversarial pairs")
        found.append(train_member(member, folder / name, work.sources, more, observers=work.observers))
    return start.moved(found)


def _result(work: _Work) -> Path:
    """The hardened run, or the ensemble of the hardened members."""
    team = work.team
    if team.combine is None:
        return Path(team.members[0].source)
    folder = work.output / ENSEMBLE
    if not (folder / ENSEMBLE_FILE).is_file():
        from plaudit.rewards.models.programs import build_ensemble

        built = build_ensemble(
            folder,
            [m.source for m in team.members],
            list(work.sources),
            how=team.combine,
            uncertainty_weight=team.uncertainty_weight,
            precision=work.options.precision,
            invalid=work.options.invalid,
            options=scoring(work.options),
        )
        work.report.notes += built.notes
    return folder


def _log(work: _Work, event: str, **details: Any) -> None:
    ledger.append_event(work.output / ledger.LEDGER_NAME, event, details)


# -- the verdict


def _judge(work: _Work) -> None:
    """What speaks against the result."""
    report = work.report
    for entry in report.rounds:
        before, after = entry.before, entry.after
        if not entry.found.held_out_prompts:
            report.warnings.append("no prompt is held out: what is measured on was trained on")
        elif before is not None and before.beats_held_out is None:
            report.warnings.append(
                f"round {entry.found.round}: no adversarial answer fell on a held-out prompt, so nothing shows whether "
                "what was learned holds beyond the answers that were trained on"
            )
        if before is None or after is None or before.accuracy is None or after.accuracy is None:
            continue
        if after.accuracy < before.accuracy:
            report.warnings.append(
                f"round {entry.found.round}: accuracy on the data's pairs fell from {before.accuracy:.1%} to "
                f"{after.accuracy:.1%} ({report.pairs} pairs)"
            )
    if not report.pairs_held_out and not work.options.find_only:
        report.notes.append("the accuracy is on pairs that were trained on: there are no held-out ones (--eval-data)")
