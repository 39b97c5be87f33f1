"""The language of code and documentation: terms of the field, American spelling, nouns first.

Each term has its place in the source as file:line, and what to write instead.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TERMS = {
    # Accuracy and agreement.
    "(gets?|got|getting|are|is|was|put|of which .{0,40}) right": "accuracy; correct; true label",
    "right (class|label|answer|ones)": "true label, correct class",
    "as (?-i:Keras)(?! (does|writes|reads|computes))|as_keras": "agreement with the Keras model",
    "confidence error": "ECE (expected calibration error)",
    'worst( |-)class(?!( |-)recall|")': "worst-class recall",
    "confuses most|what is confused": "most confused pairs",
    "surest": "most confident",
    r"(?<!make\s)(?<!be\s)sure": "confident",
    "answer(s|ed|ing)?": "prediction; output",
    "shares? of": "fraction of; proportion of",
    "told apart|tells? .{0,25}apart|telling apart": "distinguish, classify, detect",
    "(model|backbone|network|layer|keras|file|photo|image|command|report|run|compiler)s? says?": (
        "outputs, predicts, computes, prints: machines do not speak"
    ),
    "(flag|loss|losses|table|document|value|name|it)s? says?|(theirs|its) to say": "name the value",
    "what ([a-z`]+ ){1,4}says?": "name the output, features, message",
    "(delivers?|delivered|delivery|delivering|undelivered)": "export, exported",
    "proves? itself|proven": "verified",
    # Numerical problems.
    r"(?<!['\u2019])ill": "numerical problems; invalid",
    "not sound|unsound": "invalid",
    "at (its|their) limit": "saturated",
    "cut off": "clipped; truncated (a file)",
    "loss (that|which) is no number|not a number loss": "NaN loss",
    "no number": "NaN",
    # Training.
    "step sizes?": "learning rate",
    "seed of the order": "shuffle seed",
    "checkpoints? (that (is|are) )?kept|kept checkpoints?|keeps [0-9a-z]+ checkpoints?": "saved",
    "holds? (it|.{0,20}) back": "bottleneck; input-bound, compute-bound",
    "bare loop|usual recipe|(?<!-)peers?(?!-)": "baseline",
    "soft(ened)? shares?": "soft labels",
    # Quantization and the Edge TPU.
    "ladder|rungs?|climb(s|ed|ing)?": "fallbacks, attempt",
    "(in|of) floats": "in float32; the float32 model",
    "without outliers": "percentile ranges",
    "make up for": "bias correction",
    "classes in turn": "class-balanced, round-robin",
    "tpu (takes?|refuses?)|takes? of a": "maps to the Edge TPU; supports",
    "not mapped for itself": "unsupported",
    "first( |_)part": "partition, delegated subgraph",
    r"(?-i:(?:a|an|the|device|each) (?:\w+ )?pack)(?!\s?\()": "device bundle",
    # Plain verbs and nouns.
    "mend(s|ed|ing)?": "fix",
    "left away|leaves? (?!that|out)(.{1,30} )?away|leaving away": "omit, drop",
    "at hand": "available",
    "(could not|can|cannot|to) be had": "available; not available",
    "anew": "again, from scratch",
    "goes on|go on|going on|gone on|went on": "continue, resume",
    "end(s|ed)? well": "completed, succeeded",
    "endings?(?! (in|with))": "file extension; status",
    "refuse_[a-z_]+": "check_*, validate_*",
    "if wanted": "optional",
    "takes and gives": "input and output",
    r"(?<!word\s)in words": "human-readable",
    "pictures?": "image, plot, chart",
    "looks? at|to look at": "report:, see",
    # Rule 4: "per", not "a".
    (
        "(images?|photos?|bytes|steps?|times|once|twice|ms|µs|s|seconds?|milliseconds?|minutes|KB|MB|GB"
        "|rows?|lines?|folders?|files?|bits|one|batch(es)?|labels?|targets?) an? "
        "(second|image|epoch|step|batch|class|minute|hour|photo|row|line|channel|layer|trial|run|file)"
    ): "per",
    # Rule 3, where codespell looks at whole words only.
    "[a-z_]*(colour|neighbour|behaviour|normalis|quantis|equalis|binaris|labelled)[a-z_]*": (
        "American spelling"
    ),
}
"""Pattern of a term, and what to write instead. Blanks match line breaks, too."""

SEPARATOR = r"(?:[\s#\"'*`]|\bf\")+"
"""Between two words: blanks, a new comment line, the border of two string literals, emphasis."""


def compiled(term: str) -> re.Pattern[str]:
    # Underscores separate words, so that names are searched as well.
    return re.compile(
        r"(?<![A-Za-z])(?:" + term.replace(" ", SEPARATOR) + r")(?![A-Za-z])", re.IGNORECASE
    )


PATTERNS = {compiled(term): advice for term, advice in TERMS.items()}


def files() -> list[Path]:
    """Return the files whose language is checked."""
    folders = [ROOT / name for name in ("src", "docs", "benchmarks", ".github")]
    found = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.iterdir())
    return sorted(path for path in found if path.suffix in TEXT or path.name == "Makefile")


TEXT = {".py", ".md", ".txt", ".css", ".html", ".jinja", ".j2", ".toml", ".yml", ".yaml", ".cff"}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, found words, advice) for each term in ``text``."""
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    for pattern, advice in PATTERNS.items():
        for match in pattern.finditer(text):
            words = " ".join(match.group().split())
            yield bisect(starts, match.start()), words, advice


def first_words(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield (line, first words, advice) for docstrings and descriptions that begin with a question.

    "Whether" is allowed where the value is a bool.
    """
    body: list[tuple[ast.stmt, ast.stmt | None]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            predicate = isinstance(node, ast.FunctionDef) and (
                node.returns is not None and "bool" in ast.unparse(node.returns).lower()
            )
            if doc and re.match(r"(What|How|Where|Which)\b" if predicate else QUESTION, doc):
                yield node.body[0].lineno, doc.split("\n")[0][:60], "the noun or verb first"
            statements = node.body
            body += zip(statements, [*statements[1:], None], strict=True)
        elif isinstance(node, ast.keyword) and node.arg in ("description", "help"):
            text = node.value.value if isinstance(node.value, ast.Constant) else None
            if isinstance(text, str) and re.match(QUESTION, text):
                yield node.value.lineno, text[:60], "the noun first"
    for node, after in body:
        if (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and re.match(r"(What|How|Where|Which)\b", str(after.value.value))
        ):
            yield after.lineno, str(after.value.value)[:60], "the noun first"


QUESTION = r"(What|How|Where|Which|Whether)\b"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_terms_of_the_field(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = list(findings(text))
    if path.suffix == ".py":
        found += first_words(ast.parse(text))
    name = path.relative_to(ROOT)
    report = [f"{name}:{line}: {words!r} → {advice}" for line, words, advice in sorted(found)]
    assert not report, "\n".join(report)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("the images that it gets\n    # right", 1),
        ("the share of images", 1),
        ("load_delivered(refuse_existing)", 2),
        ('"one folder a " "class"', 1),
        ("The right edge, the order of shares, struct.pack(x), unpacked, worst-class recall", 0),
        ("I'll make sure that the model goes online", 0),
    ],
)
def test_terms_are_found(text: str, count: int) -> None:
    assert len(list(findings(text))) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""What it is."""', 1),
        ('def f() -> bool:\n    """Whether it is."""', 0),
        ('def f() -> int:\n    """Whether it is."""', 1),
        ('A = 1\n"""How many."""', 1),
        ('Field(description="Where to.")', 1),
        ('"""Model."""\nA = 1\n"""Number of steps."""', 0),
    ],
)
def test_first_words_are_found(source: str, count: int) -> None:
    assert len(list(first_words(ast.parse(source)))) == count
