"""Every number that is typed into the text of the book and of the README has a guard."""

import pytest
from prose import NUMBERS, PAGES, faults, numbers, sentences, texts

TEXT = """\
# 2.1 A title

In section 2.3, eq. (4), order 3 and [chapter 4.1](04-1-nested-hierarchies.ipynb) `n = 7` stands.
1. With $n \\ge 4$ and $10^{-3}$ it takes 20 000 points, 3.5e-2 of $0.25$ and 5 %.

```python
print(12)
```

```{math}
:label: eq-13
x^{2} + 1.75
```

```{exercise} 99
:label: ex-99
Why 8 in [2, 5]? See {eq}`eq-13` and https://a.b/17.
```
"""
TYPED = ["10^{-3}", "20 000", "3.5e-2", "0.25", "5", "1.75", "8", "2", "5"]
GUARDS = {
    "computed": {"takes 20 000 points, 3.5e-2 of $0.25$": "(20000, 0.0351, 1 / 4)"},
    "code": {"[2, 5]": "kanlib/paper/experiments/regression.py: [2, 5, 1]"},
    "given": {"$10^{-3}$": "a choice", "5 %.": "a choice", "Why 8": "a choice", "1.75": "a choice"},
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_number_in_prose_is_guarded(page):
    assert faults(page) == []


def test_guards_belong_to_a_page():
    assert {file.stem for file in NUMBERS.glob("*.json")} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_number_of_a_page_can_change(page):
    """Planted: any number in the text, one digit off."""
    source = texts(page)
    for i, text in enumerate(source):
        for number in numbers(text):
            digit = number.printed[-1] if number.printed[-1].isdigit() else "0"
            other = number.printed.replace(digit, str((int(digit) + 1) % 10))
            planted = [*source]
            planted[i] = text[: number.start] + other + text[number.end :]
            assert faults(page, planted) != [], f"{number.printed} → {other} in {text[:80]!r}"


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("README", "at most 1e-12 (float64)", "at most 1e-16 (float64)"),
        ("05-1-regression", "costs 3.75 times the work", "costs 5.75 times the work"),
        ("05-2-1-poisson", "which cost 2.1 times", "which cost 1.2 times"),
        ("05-2-3-allen-cahn", "80000/37500 = 2.1", "80000/37500 = 1.2"),
        ("05-2-3-allen-cahn", r"$4 \cdot 10^{-4}$ to $0.6$", r"$4 \cdot 10^{-3}$ to $0.6$"),
        ("05-2-3-allen-cahn", "its error, 0.57 on", "its error, 0.17 on"),
        ("06-conclusion", "at least 95 % where", "at least 55 % where"),
        ("P-1-conditioning", "from 4.1 to 5.7 for", "from 4.1 to 6.7 for"),
    ],
)
def test_statements_of_the_book_cannot_change(page, old, new):
    """Planted: another factor, another power of ten, digits exchanged."""
    path = next(each for each in PAGES if each.stem == page)
    source = texts(path)
    planted = [text.replace(old, new) for text in source]
    assert sum(a != b for a, b in zip(source, planted, strict=True)) == 1
    assert faults(path, planted) != []


def test_what_is_typed_and_what_names_a_thing_are_told_apart():
    assert [number.printed for number in numbers(TEXT)] == TYPED
    assert [number.value for number in numbers(TEXT)][:3] == [1e-3, 20000, 0.035]


def test_captions_and_sentences_in_code_are_prose():
    code = """
show(fig, alt="On 7 levels." if x else "On 8.", caption=f"Falls by {a:.1f} at {n} " + "of 9.")
display(Markdown(f"From 5 to {b}."), table(rows), width=6)
"""
    assert sorted(sentences(code)) == [
        "Falls by … at … of 9.", "From 5 to ….", "On 7 levels. On 8."
    ]  # fmt: skip


def test_findings_of_explorers_are_prose():
    code = """
def found(n):
    \"\"\"Of 4.\"\"\"
    text = f"With {n} of 7" if n else "On 8"
    return text + f", {n:.2f} of {['a', 'b'][n]}."

def other():
    return "9"

explorer(figure, finding=found, alt="Of {n}.", n=[1, 2])
"""
    assert sorted(sentences(code)) == [", … of ….", "Of {n}.", "On 8", "With … of 7"]


def test_sound_text_passes():
    assert faults(PAGES[0], [TEXT], GUARDS) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("20 000", "30 000", "30 000 is not in"),
        ("5 %", "6 %", "6 is not in"),
        ("Why 8", "Why 8 of 9", "9 is not in"),
        ("[2, 5]", "[2, 6]", "6 is not in"),
    ],
)
def test_changed_number_is_found(old, new, fault):
    assert any(fault in found for found in faults(PAGES[0], [TEXT.replace(old, new)], GUARDS))


@pytest.mark.parametrize(
    ("kind", "guard", "fault"),
    [
        ("computed", {"3.5e-2": "0.036"}, "3.5e-2 should be 0.036"),
        ("computed", {"3.5e-2": "(1, 2)"}, "has 2"),
        (
            "code",
            {"8 in [2, 5]": "kanlib/paper/experiments/regression.py: [2, 5, 1]"},
            "8 is not in",
        ),
        (
            "code",
            {"[2, 5]": "kanlib/paper/experiments/regression.py: [2, 5, 2]"},
            "the code has no",
        ),
        ("given", {"[2, 5]": ""}, "expected a reason"),
        ("given", {"gone 5": "a choice"}, "is not in the text"),
    ],
)
def test_guard_that_does_not_hold_is_found(kind, guard, fault):
    guards = {**GUARDS, kind: guard}
    assert any(fault in found for found in faults(PAGES[0], [TEXT], guards))
