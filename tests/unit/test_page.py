"""A run's page, from report directories made by hand: what stands in it, what it fetches, what it escapes."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tinybert.errors import DataError
from tinybert.gate import Decision
from tinybert.page import write_page
from tinybert.page_plots import curve_pictures, thinned
from tinybert.page_words import Findings, RunFacts, caveats, usage, verdict

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "use", "path"}
PICTURE = b"\x89PNG\r\n\x1a\n"


def model(accuracy: float, latency: float, megabytes: float, **more) -> dict:
    return {
        **{"accuracy": accuracy, "accuracy_low": accuracy - 0.012, "accuracy_high": accuracy + 0.012},
        **{"f1_macro": accuracy - 0.01, "f1_macro_low": accuracy - 0.024, "f1_macro_high": accuracy + 0.004},
        **{"ece": 0.081, "ece_calibrated": 0.0217, "temperature": 1.31, "agreement": 0.957, "parameters": 14_350_248},
        **{"gigaflops": 1.24, "megabytes": megabytes, "latency_ms": latency, "latency_p95_ms": latency * 1.3},
        **{"latency_p99_ms": latency * 1.6, "throughput": 40_000 / latency, **more},
    }


def comparison() -> dict:
    return {
        "teacher": model(0.9312, 16.6, 438.0, parameters=109_483_778),
        "student": model(0.9164, 7.2, 57.9),
        "onnx": model(0.9164, 4.3, 58.0),
        "int8": model(0.9141, 2.1, 14.8),
        "baseline": model(0.8423, 7.2, 57.9),
        "champion": model(0.9058, 2.2, 14.8),
        **{"retention": 0.9841, "speedup": 2.3, "rows": 2104, "test_is_validation": False, "threads": 1},
        **{"labels": ["negative", "neutral", "positive"], "throughput_batch": 32, "device": "cpu"},
        **{"seen_by_champion": 37, "confidence": 0.95},
    }


def decision() -> dict:
    return {
        **{"verdict": "promote", "forced": False, "force": None, "metric": "accuracy", "served": "int8"},
        "variants": {
            "int8": {"kept": True, "reason": "shown to be less than 2.0 points below the student in torch"},
            "onnx": {"kept": True, "reason": "shown to be less than 2.0 points below the student in torch"},
        },
        "rules": [
            {"name": "evidence", "passed": True, "found": "2,067 test rows", "wanted": "at least 200"},
            {
                "name": "better than the champion",
                "passed": True,
                "found": "+0.8 points",
                "wanted": "shown to be better",
            },
            {"name": "classes", "passed": False, "found": "neutral -6.1 points", "wanted": "none worse by 5.0 points"},
            {"name": "size", "passed": None, "found": "14.8 MB", "wanted": "any"},
        ],
        "notes": ["37 test rows that the champion was trained on are left out of the comparison with it."],
        "summary": "The student is shown to be better than the champion on 2,067 test rows.",
        **{"against_champion": True, "difference": 0.0083, "difference_low": 0.0011, "difference_high": 0.0152},
        **{"p_value": 0.0118, "retention": 0.9816, "speedup": 7.9048, "megabytes": 14.8, "latency_ms": 2.1},
    }


def classes() -> dict:
    champion = {
        "negative": (0.93, 0.95, 0.940, 900),
        "neutral": (0.7, 0.7, 0.7, 204),
        "positive": (0.92, 0.9, 0.91, 1000),
    }
    own = {
        "negative": (0.94, 0.96, 0.951, 900),
        "neutral": (0.7, 0.639, 0.668, 204),
        "positive": (0.93, 0.93, 0.93, 1000),
    }
    keys = ("precision", "recall", "f1", "support")
    scores = {"teacher": own, "student": own, "int8": own, "champion": champion}
    return {name: {label: dict(zip(keys, v, strict=True)) for label, v in of.items()} for name, of in scores.items()}


def calibration() -> dict:
    bins = [
        {"low": n / 10, "high": (n + 1) / 10, "confidence": n / 10 + 0.05, "accuracy": n / 10 + 0.03, "rows": 30 * n}
        for n in range(10)
    ]
    found = {"temperature": 1.31, "ece": 0.081, "ece_calibrated": 0.0217, "bins": bins}
    return dict.fromkeys(("teacher", "student", "onnx", "int8", "champion"), found)


def flip(text: str, right: bool, pair: str | None = None) -> dict:
    answers = ("negative", "positive") if right else ("positive", "negative")
    return {"text": text, "text_pair": pair, "label": "positive", "champion": answers[0], "student": answers[1]}


def flips() -> dict:
    texts = [
        "not half bad at all",
        "\u8fd9\u90e8\u7535\u5f71\u771f\u7684\u5f88\u597d\u770b\uff0c\u6211\u63a8\u8350",
        'a film with "quotes" & ampersands',
    ]
    fixed = [flip(text, right=True) for text in texts + [f"mended text number {n}" for n in range(5)]]
    return {"fixed": fixed, "broken": [flip("a slow start", False, "a fine end")], "fixed_rows": 34, "broken_rows": 17}


def slices() -> list[dict]:
    def entry(slice_: str, value: str, rows: int, student: float) -> dict:
        scores = {"teacher": 0.93, "student": student, "int8": student, "champion": 0.9}
        return {"slice": slice_, "value": value, "rows": rows, **scores}

    return [
        entry("length", "1 to 16 tokens", 1204, 0.93),
        entry("length", "65 and more tokens", 180, 0.8333),
        entry("label", "neutral", 204, 0.639),
        entry("source", "web", 12, 0.5),
    ]


def curve(first: float, last: float, points: int = 40) -> list[tuple[int, float]]:
    return [(10 * n, first + (last - first) * n / (points - 1)) for n in range(points)]


def facts() -> RunFacts:
    logits = {"loss": curve(1.2, 0.2, 3000), "learning_rate": curve(5e-5, 0), "validation_accuracy": curve(0.6, 0.9)}
    layers = {"loss": curve(9, 2), "attention_loss": curve(4, 1), "hidden_loss": curve(5, 1), "final_loss": [(0, 2.0)]}
    return RunFacts(
        name="reviews, four layers",
        outcome="promoted",
        registered="reviews version 3",
        model=f"file:/srv/store/model/{'c' * 64}",
        curves={"layers": layers, "logits": logits},
        lineage=[("data", "file:/srv/rows/train.csv", "a" * 64), ("teacher", "hub:google/bert@main", "b" * 64)],
        stages=[("prepare", 2.31, True), ("layers", 3723.2, False), ("logits", 65.4, False)],
        links={"Prefect": "https://prefect.example/runs/1", "MLflow": "http://mlflow.example/#/experiments/1"},
        commit="0123abc",
        written="2026-01-02 03:04 UTC",
    )


class Reports:
    """Report directories, to be altered before the page is written from them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.facts = directory, facts()
        self.files = {
            **{"comparison": comparison(), "classes": classes(), "calibration": calibration()},
            **{"flips": flips(), "slices": slices(), "decision": decision()},
        }

    @property
    def findings(self) -> Findings:
        return Findings(**self.files)

    def write(self) -> str:
        for name, content in self.files.items():
            if content is not None:
                (self.directory / f"{name}.json").write_text(json.dumps(content))
        path = self.directory / "report.html"
        write_page(self.directory, self.directory, self.facts, path)
        return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with attributes, text by section, rows of tables; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self._section = "top"
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = found["id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self.text[self._section] = self.text.get(self._section, "") + f" {data}"
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, *beginning: str) -> list[str]:
        return next(row for row in self.rows if tuple(row[: len(beginning)]) == beginning)


@pytest.fixture
def reports(tmp_path) -> Reports:
    reports = Reports(tmp_path)
    reports.facts = replace(reports.facts, curves={})  # each takes a second to draw
    return reports


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    """The page with all its parts."""
    reports = Reports(tmp_path_factory.mktemp("reports"))
    (reports.directory / "confusion_int8.png").write_bytes(PICTURE)
    return reports.write()


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def headline(page: Page) -> str:
    return " ".join(page.text["top"].split())  # also of spaces that do not break


def test_the_decision_made_by_hand_is_one_that_the_gate_could_write():
    Decision.model_validate(decision())


def test_the_page_begins_with_the_verdict_and_the_big_numbers(page):
    top = headline(page)
    assert "Promoted The student is shown to be better than the champion on 2,067 test rows." in top
    assert "It is the champion now. Registered as reviews version 3 ." in top
    assert "Accuracy 91.4% 90.2% to 92.6%; teacher 93.1%" in top
    assert "Against the champion +0.8 points +0.1 to +1.5; p = 0.0118" in top
    assert "Retention 98.2%" in top
    assert "Speed-up 7.9\u00d7 2.1 ms a prediction; teacher 16.6 ms" in top
    assert "Size 14.8 MB teacher 438.0 MB" in top
    assert "Measured on 2,104 test rows, for the variant that is served, int8. Ranges are 95% intervals; that" in top


@pytest.mark.parametrize(
    ("outcome", "changes", "tone", "words"),
    [
        ("promoted", {}, "good", "Promoted"),
        ("promoted", {"against_champion": False}, "good", "Promoted as the first model"),
        ("promoted", {"forced": True, "force": "a demo tomorrow"}, "warn", "Promoted by force"),
        ("rejected", {"verdict": "reject"}, "bad", "The champion stays."),
        ("rejected", {"verdict": "reject", "against_champion": False}, "bad", "There is still no champion."),
        ("unchanged", {}, "neutral", "This student is the champion already"),
        ("overtaken", {}, "warn", "Another run changed the champion meanwhile"),
        (None, {}, "good", "Fit for promotion"),
        (None, {"verdict": "reject"}, "bad", "Rejected"),
    ],
)
def test_the_verdict_has_its_colour_and_its_words(outcome, changes, tone, words):
    found = verdict(decision() | changes, outcome)
    assert found.tone == tone
    assert words in f"{found.headline}. {found.consequence}"


def test_rules_are_told_as_passed_failed_or_not_applicable(page):
    assert page.row("evidence") == ["evidence", "pass", "2,067 test rows", "at least 200"]
    assert page.row("classes") == ["classes", "fail", "neutral -6.1 points", "none worse by 5.0 points"]
    assert page.row("size")[1] == "not applicable"
    assert page.row("int8", "kept")[2].startswith("shown to be less than")


def test_models_stand_side_by_side(page):
    # accuracy / 0.9312; 16.6 ms / 2.1 ms
    assert page.row("int8 served", "91.4% 90.2% to 92.6%") == [
        *("int8 served", "91.4% 90.2% to 92.6%", "90.4% 89.0% to 91.8%", "95.7%", "98.2%", "14.8", "2.1", "7.9\u00d7"),
    ]
    assert page.row("teacher", "93.1% 91.9% to 94.3%")[4:] == ["100.0%", "438.0", "16.6", "1.0\u00d7"]
    assert page.row("teacher", "16.6") == ["teacher", "16.6", "21.6", "26.6", "2,410", "438.0", "109,483,778", "1.24"]
    assert page.row("int8 served", "8.1%") == ["int8 served", "8.1%", "2.2%", "1.31"]


def test_weak_classes_are_marked_and_set_against_the_champion(page):
    # mean F1 is (0.951 + 0.668 + 0.93) / 3 = 0.850
    assert page.row("neutral", "weak") == [
        *("neutral", "weak", "204", "70.0%", "63.9%", "66.8%", "66.8%", "\u22126.1", "\u22123.2"),
    ]
    assert page.row("positive", "")[7:] == ["+3.0", "+2.0"]
    labels = [row[0] for row in page.rows if row[0] in ("negative", "neutral", "positive")]
    assert labels[:3] == ["neutral", "positive", "negative"]


def test_slices_are_marked_where_they_are_weak_or_few(page):
    assert page.row("length", "65 and more tokens") == [
        *("length", "65 and more tokens", "weak", "180", "93.0%", "83.3%", "83.3%", "90.0%"),
    ]
    assert page.row("source", "web")[2] == "few rows"
    assert not any(row[0] == "label" for row in page.rows)


def test_flips_are_shown_with_their_texts_and_counts(page):
    assert "Mended: 34 rows" in page.text["changes"]
    assert "Broken: 17 rows" in page.text["changes"]
    assert page.row("a slow start a fine end")[1:] == ["positive", "positive", "negative"]
    assert page.row(flips()["fixed"][1]["text"])[1:] == ["positive", "negative", "positive"]
    assert "3 more examples" in page.text["changes"]


def test_data_stages_and_code_are_told(page):
    assert page.row("data") == ["data", f"file:/srv/rows/train.csv {'a' * 64}"]
    assert page.row("prepare") == ["prepare", "0:02", "cached"]
    assert page.row("All stages") == ["All stages", "1:03:11", "1 of 3"]
    assert page.row("Git commit")[1] == "0123abc"
    assert 'mlflow.pyfunc.load_model("models:/reviews/3")' in page.text["use"]
    assert f'Classifier.load("/srv/store/model/{"c" * 64}")' in page.text["use"]


def test_the_code_fits_what_the_model_reads_and_where_it_is():
    ways = dict(usage(replace(facts(), pair=True, model="s3://bucket/model/1", registered='my "best" version 12')))
    assert ways["From the registry"].splitlines()[1:] == [
        'model = mlflow.pyfunc.load_model("models:/my \\"best\\"/12")',
        'model.predict([["A text", "Its pair"]])',
    ]
    assert ways["From a copy of s3://bucket/model/1"].splitlines()[1:] == [
        'classifier = Classifier.load("path/to/the/copy")',
        'classifier.answer(["A text"], pairs=["Its pair"])',
    ]


def test_nothing_is_fetched_and_only_the_given_pages_are_linked(html, page):
    addresses = [
        v for _, found in page.tags for k, v in found.items() if k in ("src", "href", "srcset", "data", "action")
    ]
    outside = [address for address in addresses if not address.startswith(("#", "data:image/png;base64,"))]
    assert outside == list(facts().links.values())
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(page.ids)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html)
    assert "default-src 'none'" in html


def test_a_link_that_is_no_web_address_is_text(reports):
    reports.facts = replace(reports.facts, links={"MLflow": "javascript:alert(1)"})
    page = Page(reports.write())
    assert page.row("MLflow") == ["MLflow", "javascript:alert(1)"]
    assert all(found.get("href", "#").startswith("#") for _, found in page.tags)


def test_what_others_wrote_is_escaped_everywhere(reports):
    files = json.dumps(reports.files).replace("neutral", EVIL).replace("a slow start", EVIL)
    reports.files = json.loads(files.replace("a fine end", EVIL).replace("1 to 16 tokens", EVIL))
    for key in ("summary", "force"):
        reports.files["decision"][key] = EVIL
    reports.files["decision"]["notes"] = [EVIL]
    hostile = f'{EVIL}" onload="x'
    curves = {hostile: {hostile: curve(1, 2), "loss": curve(1, 0)}}
    reports.facts = RunFacts(
        **{"name": hostile, "outcome": "promoted", "registered": f"{hostile} version 1", "model": f"file:/{hostile}"},
        **{"curves": curves, "lineage": [(hostile,) * 3], "stages": [(hostile, 1.0, False)], "commit": hostile},
        links={hostile: f"https://x/{hostile}"},
    )
    html = reports.write()
    page = Page(html)
    assert "<script" not in html
    assert not any("script" in tag or "onload" in found for tag, found in page.tags)
    assert EVIL in page.text["changes"]
    assert EVIL in page.text["classes"]
    assert EVIL in page.text["top"]


def test_without_a_champion_the_page_says_so(reports):
    del reports.files["comparison"]["champion"], reports.files["classes"]["champion"]
    reports.files["flips"] = None
    unknown = dict.fromkeys(("difference", "difference_low", "difference_high", "p_value"))
    reports.files["decision"] |= {"against_champion": False, **unknown}
    page = Page(reports.write())
    assert "Against the champion \u2013 there is none to compare with" in headline(page)
    assert "No champion took part" in page.text["changes"]
    assert page.row("positive", "")[7:] == ["\u2013", "\u2013"]
    assert "only floors and budgets were checked" in page.text["limits"]


def test_without_curves_the_page_says_so(reports):
    reports.facts = replace(reports.facts, curves={})
    page = Page(reports.write())
    assert "MLflow did not answer" in page.text["curves"]
    assert "Learning curves are missing" in page.text["limits"]


def test_limits_name_what_makes_the_figures_weaker(reports):
    limits = " ".join(caveats(reports.findings, facts()))
    assert "37 test rows that the champion was trained on" in limits
    assert "in the tables include the rows it was trained on" in limits
    assert "with 1 thread on cpu" in limits
    assert "Promoted although these rules did not pass: classes." in limits
    assert not re.search("are few|test_source|MLflow|not kept|no champion", limits)
    reports.files["comparison"]["test_is_validation"] = True
    reports.files["comparison"]["int8"] |= {"accuracy_low": 0.87, "accuracy_high": 0.95}
    reports.files["decision"]["variants"]["int8"] = {"kept": False, "reason": "3.1 points below."}
    limits = " ".join(caveats(reports.findings, facts()))
    assert "Set data.test_source or data.test_share" in limits
    assert "known to about \u00b14.0 points" in limits
    assert "The variant int8 was not kept: 3.1 points below." in limits


def test_a_bare_comparison_still_makes_a_page(reports):
    for name in ("classes", "calibration", "flips", "slices"):
        reports.files[name] = None
    kept = {"accuracy": 0.9, "latency_ms": float("nan")}
    reports.files["comparison"] |= {"teacher": kept, "student": kept, "int8": kept}
    reports.facts = RunFacts(name="bare")
    page = Page(reports.write())
    assert page.row("int8 served", "90.0%")[-1] == "\u2013"
    assert "no scores by class" in page.text["classes"]
    assert "no calibration" in page.text["calibration"]
    assert "registered no model" in page.text["use"]


@pytest.mark.parametrize("file", ["comparison", "decision"])
def test_a_directory_that_is_no_report_is_refused(reports, file):
    reports.files[file] = {"teacher": {}}
    with pytest.raises(DataError, match=rf"{file}\.json: no .*stages evaluate and gate"):
        reports.write()


def test_pictures_say_in_words_what_they_show(page):
    told = [found["aria-label"] for tag, found in page.tags if tag == "svg"]
    assert all(found.get("role") == "img" for tag, found in page.tags if tag == "svg")
    assert any(text.startswith("accuracy: teacher 93.1% (91.9% to 94.3%)") for text in told)
    assert any("int8 2.1 and 2.7 ms" in text for text in told)
    assert all(found["alt"] for tag, found in page.tags if tag == "img")
    assert len(page.ids) == len(set(page.ids))


def test_pictures_take_the_colours_of_the_page(html):
    body = html.partition("</style>")[2]
    assert "var(--series-0)" in body
    assert not re.search(r"(fill|stroke): #[0-9a-f]{6}", body)


def test_losses_share_a_picture_and_single_numbers_have_none():
    curves = {name: curve(1, 0) for name in ("loss", "hidden_loss", "learning_rate", "validation_accuracy")}
    pictures = curve_pictures("layers", {**curves, "final_loss": [(0, 1.0)]})
    titles = [re.search(r'aria-label="layers, ([\w ]+) by step', picture)[1] for picture in pictures]
    assert titles == ["losses", "scores on validation", "learning rate"]
    assert any("hidden loss 1 to 0, loss 1 to 0" in picture for picture in pictures)


def test_long_curves_are_thinned_to_means_and_extremes():
    points = [(step, float(step % 2)) for step in range(1000)]
    steps, mean, low, high = thinned(points, most=100)
    assert steps[:2] == [4.5, 14.5]
    assert (set(mean), set(low), set(high)) == ({0.5}, {0.0}, {1.0})
    assert len(steps) == 100
    assert thinned(points[:50], most=100)[1] == [value for _, value in points[:50]]


def test_the_page_does_not_grow_with_the_length_of_a_run(html):
    short, long = (sum(map(len, curve_pictures("logits", {"loss": curve(1, 0, n)}))) for n in (1000, 100_000))
    assert long < 1.2 * short
    assert len(html) < 600_000
