"""A person at work: the stack comes up, a run is started by clicks, it completes, and its links lead to what it made.

TINYBERT_SCREENSHOTS names a directory for the pictures (else a temporary one); CHROMIUM the browser, where it is not in
one of the usual places and Playwright has none of its own.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.stack import settings
from infra.stack.layout import ROOT, Layout

playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'tinybert-pipeline[browser]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PATIENCE = 600
"""Seconds for what takes 20 to 60 on an idle machine."""
PLACES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_program(own: str) -> str | None:
    """Where Chromium is: named, Playwright's own, or on the path."""
    named = os.environ.get("CHROMIUM")
    candidates = [named] if named else [own, *filter(None, map(shutil.which, PLACES))]
    return next((path for path in candidates if path and Path(path).exists()), None)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        program = browser_program(driver.chromium.executable_path)
        if program is None:
            pytest.skip("no Chromium: name one in CHROMIUM, install one, or `playwright install chromium`")
        # Its sandbox needs rights that containers do not give; it sees pages of our own alone.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stack() -> Iterator[settings.Settings]:
    """What `make up` starts, in a directory of its own."""
    with tempfile.TemporaryDirectory() as base:  # pytest's own are closed to the database, which has another user
        Path(base).chmod(0o755)
        layout, said = Layout(Path(base) / "it"), Path(base) / "said"
        environment = {**os.environ, "TINYBERT_STACK": str(layout.directory)}
        command = {"env": environment, "cwd": ROOT}
        with said.open("w") as output:
            up = subprocess.Popen([sys.executable, "-m", "infra.stack", "up"], stdout=output, stderr=output, **command)
        try:
            deadline = time.monotonic() + PATIENCE
            while "start a run" not in said.read_text():
                assert up.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.5)
            yield settings.load(layout.env)
        finally:
            up.send_signal(signal.SIGINT)
            try:
                up.wait(timeout=PATIENCE)
            finally:
                subprocess.run([sys.executable, "-m", "infra.stack", "down"], check=False, **command)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    named = os.environ.get("TINYBERT_SCREENSHOTS")
    directory = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


class Visitor:
    """A browser window, and the pictures that it takes."""

    def __init__(self, browser, pictures: Path) -> None:
        self.pictures = pictures
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.failures: list[str] = []
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))

    def click(self, role: str, name: str, *, exact: bool = True, within=None) -> None:
        (within or self.page).get_by_role(role, name=name, exact=exact).first.click()

    def picture(self, name: str, seconds: float = 1.5) -> None:
        """The window, and the whole page however long it is."""
        self.page.wait_for_timeout(1000 * seconds)
        self.page.screenshot(path=self.pictures / f"{name}.png")
        self.page.screenshot(path=self.pictures / f"{name}-whole.png", full_page=True)

    def text(self) -> str:
        return self.page.locator("body").inner_text()


@pytest.fixture(scope="module")
def visitor(browser, pictures):
    return Visitor(browser, pictures)


@pytest.fixture(scope="module")
def form(visitor, stack) -> str:
    """The text of the form of `smoke`, reached by clicks."""
    page = visitor.page
    page.goto(f"{stack.prefect_url}/v2/dashboard")
    visitor.click("link", "Deployments")
    page.get_by_placeholder("Search deployments").fill("smoke")  # the list has several pages
    page.get_by_role("link", name="smoke", exact=True).first.click()
    page.wait_for_url("**/deployments/deployment/**")
    visitor.picture("1-deployment")
    visitor.click("button", "Run")
    visitor.click("menuitem", "Custom run")
    page.get_by_role("heading", name="Parameters").wait_for()
    visitor.picture("2-form", seconds=3)
    return visitor.text()


@pytest.fixture(scope="module")
def run(visitor, form, stack) -> dict:
    """The flow run that the form starts, at its end."""
    page = visitor.page
    visitor.click("button", "Submit")
    visitor.click("link", "View run")
    page.wait_for_url("**/runs/flow-run/**")
    found = re.search(r"/flow-run/([0-9a-f-]{36})", page.url)
    url = f"{stack.prefect_url}/api/flow_runs/{found[1]}"
    deadline, run = time.monotonic() + PATIENCE, {}
    while run.get("state_type") not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        assert time.monotonic() < deadline, run
        time.sleep(1)
        run = httpx.get(url, timeout=30, trust_env=False).json()
        if run["state_type"] == "RUNNING" and page.url != "about:blank":
            visitor.picture("3-run-under-way", seconds=20)
            page.goto("about:blank")  # a page that follows a run takes half a processor
    page.goto(f"{stack.prefect_url}/v2/runs/flow-run/{run['id']}")
    page.get_by_text(run["state_name"], exact=True).first.wait_for()
    visitor.picture("4-run-ended")
    return run


def artifacts(stack: settings.Settings, run: dict) -> dict[str, dict]:
    """What the run shows in the UI, by key."""
    asked = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}
    found = httpx.post(f"{stack.prefect_url}/api/artifacts/filter", json=asked, timeout=30, trust_env=False)
    found.raise_for_status()
    return {artifact["key"]: artifact for artifact in found.json()}


def follow(visitor: Visitor, stack: settings.Settings, run: dict, key: str):
    """Open an artifact of the run by its tab, click the link in it, and give back the page that this leads to."""
    page = visitor.page
    page.goto(f"{stack.prefect_url}/v2/runs/flow-run/{run['id']}")
    visitor.click("tab", "Artifacts")
    page.locator(f"a[href$='/artifacts/key/{key}']").first.click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    page.wait_for_url("**/artifacts/artifact/**")
    visitor.picture(f"artifact-{key}")
    page.goto(page.locator(f"a[href^='{stack.mlflow_url}']").first.get_attribute("href"))


def test_the_form_can_be_filled_in_without_reading_code(visitor, form):
    words = (
        "What to distil",
        "Name of the task",
        "Data\n",
        "Training rows",
        "Teacher\n",
        "Fine tune (",
        "Gate (",
        "Submit",
    )
    assert sorted(words, key=form.index) == list(words)
    assert visitor.page.locator("textarea").first.input_value() == "smoke"


def test_a_click_ends_in_a_completed_run(run):
    assert run["state_name"] == "Completed", run["state"]
    assert run["name"] == "smoke" or run["name"]
    assert run["created_by"]["type"] in ("USER", "DEPLOYMENT") if run.get("created_by") else True


def test_the_run_shows_its_summary_and_links(run, stack):
    assert {"summary", "mlflow-run", "report", "model"} <= set(artifacts(stack, run))


def test_the_link_leads_to_the_run_in_mlflow(visitor, run, stack):
    follow(visitor, stack, run, "mlflow-run")
    assert visitor.page.url.startswith(stack.mlflow_url)
    visitor.page.get_by_text("smoke").first.wait_for()
    visitor.picture("5-mlflow-run", seconds=5)
    assert "retention" in visitor.text()


def test_the_link_leads_to_the_report(visitor, run, stack):
    follow(visitor, stack, run, "report")
    visitor.picture("6-report", seconds=8)
    frames = " ".join(frame.locator("body").inner_text() for frame in visitor.page.frames)
    assert "student" in frames
    assert "teacher" in frames


def test_the_link_leads_to_the_registered_model(visitor, run, stack):
    follow(visitor, stack, run, "model")
    visitor.picture("7-model", seconds=5)
    assert "champion" in visitor.text()
    asked = {"name": "smoke", "alias": "champion"}
    url = f"{stack.mlflow_url}/api/2.0/mlflow/registered-models/alias"
    found = httpx.get(url, params=asked, timeout=30, trust_env=False).json()["model_version"]
    assert found["version"] == "1"


def test_no_page_failed(visitor, run):
    assert visitor.failures == []
