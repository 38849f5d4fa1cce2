"""The whole of `plaudit harden`: find, add, train again, measure; every step is gone on with where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.config.schema import SourceConfig
from plaudit.errors import ConfigError
from plaudit.recipes.harden.cases import Cases, read_cases
from plaudit.recipes.harden.finding import Places, Search, answers, find, scoring
from plaudit.recipes.harden.intake import (
    Given,
    check_about,
    check_output,
    check_team,
    data_sources,
    held_out_rows,
    measured_pairs,
)
from plaudit.recipes.harden.measuring import Yardstick, measure, pairs_of
from plaudit.recipes.harden.members import (
    Member,
    Team,
    find_team,
    lost_eval,
    recipe,
    recipe_of,
    train_member,
)
from plaudit.recipes.harden.options import Options
from plaudit.recipes.harden.report import Hardened, RoundReport, State
from plaudit.recipes.harden.selection import Criterion
from plaudit.rewards.models.accuracy import Ranked
from plaudit.rewards.models.card import ENSEMBLE_FILE
from plaudit.runs import ledger
from plaudit.runs.jsonl import write_atomically
from plaudit.runs.lock import RunLock
from plaudit.runs.observer import Observer

REPORT = "report.json"
SECOND, ENSEMBLE = "second", "ensemble"


@dataclass(slots=True)
class _Work:
    """A hardening that is under way."""

    given: Given
    options: Options
    team: Team
    sources: tuple[SourceConfig, ...]
    cases: Cases
    ranked: Ranked
    criterion: Criterion
    observers: Sequence[Observer]
    say: Callable[[str], None]
    report: Hardened

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
        raise ConfigError(
            "PL102",
            "no policy is given",
            mend="name the models whose answers are looked at: --policy",
            where="--policy",
        )
    check_output(given.output)
    lock = RunLock(given.output)
    try:
        return _run(given, options, observers, say)
    finally:
        lock.release()


def _run(given: Given, options: Options, observers: Sequence[Observer], say: Callable[[str], None]) -> Hardened:
    team = find_team(given.reward, config=given.config, base=given.base)
    check_team(team, given, options)
    sources = data_sources(given, team)
    own = held_out_rows(team.members[0], sources)
    cases = read_cases(
        list(sources),
        held_out=options.held_out,
        own_held_out=own,
        limit=options.max_prompts,
        invalid=options.invalid,
    )
    check_about(given, options, cases)
    for note in cases.notes:
        say(note)
    ranked, fresh = measured_pairs(given, team.members[0], sources, own, options)
    criterion: Criterion = options.criterion or ("mean" if len(team.members) > 1 else "first")
    report = Hardened(given.output, notes=list(cases.notes), pairs_held_out=fresh)
    report.pairs = sum(len(pairs) for _, pairs in ranked)
    if lost_eval(team.members[0]):
        report.notes.append("the run's held-out rows were in memory and are gone: what is trained here does without")
    work = _Work(given, options, team, sources, cases, ranked, criterion, observers, say, report)
    if len(team.members) == 1:
        # What is wrong with a policy shows when it is sampled: before a model is trained.
        places = Places.of(given.output, 1)
        if not places.found.exists():
            answers(_search(work, 1), places, say)
        work.team = team.moved([team.members[0], _second(work)])
    _rounds(work)
    _judge(work)
    write_atomically(given.output / REPORT, json.dumps(report.as_json(), indent=2) + "\n")
    return report


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


def _search(work: _Work, number: int) -> Search:
    """What round `number` looks for."""
    return Search(
        number,
        work.given.policies,
        work.team.members,
        work.cases.cases,
        work.criterion,
        work.options,
        work.cases.files,
    )


def _rounds(work: _Work) -> None:
    start, options = work.team, work.options
    more: list[SourceConfig] = []
    for number in range(1, options.rounds + 1):
        places = Places.of(work.output, number)
        found = find(_search(work, number), places, work.say)
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
            break
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
    if more:  # an earlier round's model stands where a later one has found nothing
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
