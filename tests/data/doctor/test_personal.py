"""Personal data is found where it is, not where it only looks like it, and is never shown whole."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data.doctor.characters import has_mojibake, unmangled
from plaudit.data.doctor.markup import without_ends
from plaudit.data.doctor.personal import KINDS, hide, luhn, personal
from tests.data.doctor.rows import bad, diagnosed, pairs

FOUND = [
    ("emails", "john.doe+x@acme-corp.co.uk"),
    ("phones", "+49 170 1234567"),
    ("phones", "+1 (212) 867-5309"),
    ("phones", "(212) 867-5309"),
    ("phones", "212-867-5309"),
    ("ip_addresses", "8.8.4.4"),
    ("ip_addresses", "2001:4860:4860::8888"),
    ("ibans", "DE89 3704 0044 0532 0130 00"),
    ("ibans", "GB82WEST12345698765432"),
    ("cards", "4111 1111 1111 1111"),
    ("cards", "5500-0000-0000-0004"),
    ("cards", "378282246310005"),
    ("secrets", "AKIAIOSFODNN7EXAMPLE"),
    ("secrets", "ghp_" + "a1B2" * 9),
    ("secrets", "sk-proj-" + "a1B2c3" * 6),
    ("secrets", "hf_" + "aBcDeFgHiJ" * 3 + "xyz"),
    ("secrets", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"),
    ("secrets", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4"),
]
NOT = [
    "someone@example.com, me@host.test, root@localhost, icon@2x.png, a @ b",
    "192.168.0.1 and 127.0.0.1 and 10.0.0.7 and 203.0.113.9 and 999.1.1.1 and 1.2.3",
    "version 8.8.4.4 came out",
    "212-555-0134 is fiction, 2024-11-27 a date, 1,234,567 a number, 12:30:45 a time",
    "4111 1111 1111 1112 has a wrong check digit; 0000 0000 0000 0000 is none",
    "DE88 3704 0044 0532 0130 00 has a wrong checksum",
    "3.14159265358979, 123456789012345678901234567890, 1e-10, a::b::c, std::vector",
    "sk-learn is no key, hf_model neither, risk-assessment-of-very-long-words-too, sk-a-name-of-many-words",
]


@pytest.mark.parametrize(("kind", "value"), FOUND)
@pytest.mark.parametrize("around", ["{}", "It is {}.", "({}), you know", "key={} "])
def test_values_are_found_whole(kind: str, value: str, around: str) -> None:
    text = around.format(value)
    (found,) = personal(text)
    assert (found.kind, text[found.start : found.end]) == (kind, value)
    assert value not in hide(text)
    assert len(set(value) & set(found.masked)) > 0  # a few characters tell which one it was
    assert sum(c.isalnum() for c in found.masked.split(" (")[0]) <= 6


@pytest.mark.parametrize("text", NOT)
def test_what_only_looks_like_it(text: str) -> None:
    assert personal(text) == []
    assert hide(text) == text


def test_check_digits() -> None:
    assert luhn("79927398713")  # the standard's own example
    assert not any(luhn(f"7992739871{d}") for d in "012456789")


@pytest.mark.parametrize(("kind", "value"), FOUND)
def test_reports_never_show_a_value(kind: str, value: str) -> None:
    """Neither its own finding nor another one that shows a piece of the same row."""
    rows = pairs(10)
    rows[3]["prompt"] = f"{value} is what I have.\n{rows[3]['prompt']}"
    rows[3]["chosen"] = f"{rows[3]['prompt']} <|im_end|> Ã© {value} \ufffd"
    rows[4] = {**rows[3], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    rows[5] = {**rows[3], "chosen": [{"role": value, "content": value}]}
    found = diagnosed(rows)
    assert found.finding(kind).count == 2
    assert found.finding(kind).numbers["values"] == 6
    assert {"contradictions", "special_tokens", "malformed", "prompt_leak"} <= bad(found).keys()
    told = json.dumps(found.model_dump(), ensure_ascii=False)
    assert value not in told
    assert json.dumps(value)[1:-1] not in told


def test_accounts_and_keys_fail_and_the_rest_warns() -> None:
    for kind, value in FOUND:
        rows = pairs()
        rows[3]["chosen"] += f" See {value}"
        verdict = "FAIL" if kind in ("ibans", "cards", "secrets") else "WARN"
        assert bad(diagnosed(rows)) == {kind: (verdict, 1)}


def test_columns_that_are_not_trained_on_are_not_searched() -> None:
    assert bad(diagnosed([r | {"annotator": "jane@corp.org", "note": "jane@corp.org"} for r in pairs()])) == {}


@given(st.lists(st.sampled_from([v for _, v in FOUND] + NOT + ["text", "\n", "7", "@", ":"]), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_masked_text_has_nothing_left(parts: list[str], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([" ", ", ", "\n"])).join(parts)
    hidden = hide(text)
    assert personal(hidden) == []
    values = personal(text)
    assert all(a.end <= b.start for a, b in pairwise(values))
    assert {v.kind for v in values} <= KINDS.keys()


@given(st.text(alphabet=st.characters(min_codepoint=0xA0, max_codepoint=0x17F), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_text_that_was_decoded_wrongly_is_decoded_rightly(text: str) -> None:
    if not has_mojibake(text):
        assert unmangled(text.encode("utf-8").decode("latin-1")) == text
        assert unmangled(text) == text


@pytest.mark.parametrize(
    ("mangled", "right"), [("cafÃ©", "café"), ("itâ€™s", "it’s"), ("Ã¢â‚¬â„¢", "’"), ("naïve", "naïve")]
)
def test_mojibake(mangled: str, right: str) -> None:
    assert unmangled(mangled) == right


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Done.<|im_end|>\n<|endoftext|>", "Done."),
        ("<s> [INST] Done.</s>", "Done."),
        ("a <|im_end|> b", "a <|im_end|> b"),
        ("  Done. ", "  Done. "),
        ("<|im_end|>", ""),
    ],
)
def test_special_tokens_at_the_ends(text: str, left: str) -> None:
    assert without_ends(text) == left
