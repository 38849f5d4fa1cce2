"""The known reward of the demo: what a voice assistant should say, one or two complete sentences on the question.

Because the rule is known, improvement is measured and not claimed. It is transparent on purpose, and it says nothing
about whether an answer is true.
"""

from __future__ import annotations

import math
import re

NO_SENTENCE, SENTENCE, SHORT, LONG = 2, 8, 18, 36
"""Words: brevity rises from 0 to 1 between the first two, is 1 up to the third, and is 0 again at the fourth."""
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FUNCTION_WORDS = """
about above after again also been before being between both called could does doing done down each every from
have having here into just know known like make many more most much name named only other over said same should
some such tell than that their them then there these they thing this those through under very want was were what
when where which while whom whose will with would year your
"""
_STOP = frozenset(_FUNCTION_WORDS.split())


def reward(question: str, answer: str, finished: bool) -> float:
    """The rule's score, from -1 to 2.5; higher is better.

    +1    complete: the model ended the answer itself, with a full stop, ! or ?.
    +1    brief, but a sentence: full from 8 to 18 words, falling linearly to 0 at 2 and at 36 words.
    +0.5  on the question: it shares a content word with it.
    -1    times the share of three-word sequences that are repeats.

    Args:
        finished: the sample ended with an end-of-turn token, it was not cut at the length limit.
    """
    words = _words(answer)
    complete = finished and answer.rstrip().rstrip("\"')*").endswith((".", "!", "?"))
    on_question = bool(_content(question) & _content(answer))
    return complete + _brevity(len(words)) + 0.5 * on_question - _repetition(words)


def preference_probability(gap: float, sharpness: float) -> float:
    """Bradley–Terry: how likely an annotator prefers an answer whose reward is higher by ``gap``."""
    return 1 / (1 + math.exp(-sharpness * gap))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _content(text: str) -> set[str]:
    """Stems (the first six letters) of the words of four letters or more that are not function words."""
    return {word[:6] for word in _words(text) if len(word) >= 4 and word not in _STOP}


def _brevity(words: int) -> float:
    rising = (words - NO_SENTENCE) / (SENTENCE - NO_SENTENCE)
    falling = (LONG - words) / (LONG - SHORT)
    return max(0.0, min(1.0, rising, falling))


def _repetition(words: list[str]) -> float:
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
