"""A run's page, from report directories made by hand: what stands in it, what it fetches, what it escapes."""

import json
import re
from dataclasses import replace

import pytest

from tests.unit.pages import Page, Reports, curve, decision, facts, flips
from tinybert.errors import DataError
from tinybert.gate import Decision
from tinybert.page_plots import curve_pictures, thinned
from tinybert.page_words import RunFacts, caveats, usage, verdict

EVIL = "<script>alert('x')</script>"
PICTURE = b"\x89PNG\r\n\x1a\n"


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
    assert page.row("source", "web")[2] == "few"
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
    assert f'Student.load("/srv/store/model/{"c" * 64}")' in page.text["use"]


def test_the_code_fits_what_the_model_reads_and_where_it_is():
    run = replace(facts(), pair=True, model="s3://bucket/model/1", registered='my "best" version 12')
    ways = dict(usage(run, "classification"))
    assert ways["From the registry"].splitlines() == [
        "import mlflow",
        'model = mlflow.pyfunc.load_model("models:/my \\"best\\"/12")',
        'model.predict([["A text to classify", "Its pair"]])',
        "# columns: label, score, p_<label> of each label, truncated, error",
    ]
    assert ways["From a copy of s3://bucket/model/1"].splitlines()[1:] == [
        'student = Student.load("path/to/the/copy")',
        'student.answer(["A text to classify"], pairs=["Its pair"])',
    ]
    assert ways["With transformers alone"].splitlines()[1:] == [
        'answer = pipeline("text-classification", model="path/to/the/copy", truncation=True)',
        'answer({"text": "A text to classify", "text_pair": "Its pair"})  # torch, uncalibrated',
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
    assert not {"classes", "calibration"} & page.text.keys()
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
