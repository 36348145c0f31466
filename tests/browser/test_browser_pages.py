"""The board, live operations and the office in a real browser, under their strict policy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from store import outbox
from store.rows import OutboxEvent
from tests.api.conftest import PASSWORD, data_dir, process_environment  # noqa: F401 - fixtures
from tests.api.test_api_process import Service, running
from tests.servers import PATIENCE_SECONDS
from tests.tools import debian_tool

pytestmark = pytest.mark.browser
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
HOSTILE = '<img src=x onerror="document.title=1"><b>x</b>'
expect.set_options(timeout=PATIENCE_SECONDS * 1000)  # a machine under load draws slowly; nothing here is about how fast


@pytest.fixture
async def service(process_environment: dict[str, str]) -> AsyncIterator[Service]:  # noqa: F811 - the fixture
    async with running(process_environment) as made:
        yield made


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = debian_tool("chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        await launched.close()


class Watched:
    """A page that remembers what went wrong and where it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def check(self, service: Service) -> None:
        assert self.problems == []
        own = (service.url, service.url.replace("http", "ws"), "data:")
        assert [url for url in self.asked if not url.startswith(own)] == []


async def signed_in(context: BrowserContext, service: Service, path: str) -> Watched:
    watched = Watched(await context.new_page())
    await watched.page.goto(f"{service.url}{path}")
    await watched.page.fill("#secret", PASSWORD)
    await watched.page.keyboard.press("Enter")
    await expect(watched.page.locator("#connection")).to_have_text("live")
    return watched


@pytest.mark.req("S3-8")
async def test_the_board_is_live_works_by_keyboard_and_shows_hostile_names_as_text(
    browser: Browser, service: Service, tmp_path: Path
) -> None:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    watched = await signed_in(context, service, "/board")
    page = watched.page
    async with service.client() as client:
        made = (
            await client.post("/api/tasks", json={"title": HOSTILE, "tags": [HOSTILE], "priority": "urgent"})
        ).json()
        card = page.locator(f'[data-id="{made["id"]}"]')
        await expect(card.locator("strong")).to_have_text(HOSTILE)
        assert await page.locator("main img, main b").count() == 0
        await card.focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator('[data-status="assigned"]').locator(f'[data-id="{made["id"]}"]')).to_be_focused()
        assert (await client.get(f"/api/tasks/{made['id']}")).json()["status"] == "assigned"
        await client.patch(f"/api/tasks/{made['id']}", json={"status": "done"})
        await expect(page.locator('[data-status="done"]').locator(f'[data-id="{made["id"]}"]')).to_have_count(1)
    await page.get_by_label("Title of a new task").fill("By hand")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("list", name="To do")).to_contain_text("By hand")
    async with page.expect_response(lambda answer: answer.url.endswith("/api/auth/preferences") and answer.ok):
        await page.get_by_label("Theme").select_option("ocean")
    await page.evaluate("() => localStorage.clear()")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "ocean")
    await expect(page.get_by_role("list", name="To do")).to_contain_text("By hand")
    for width in (390, 1280, 1920):
        await page.set_viewport_size({"width": width, "height": 900})
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), width
        await page.screenshot(path=tmp_path / f"board-{width}.png")
    watched.check(service)


@pytest.mark.req("S0-12", "S0-13")
async def test_an_operation_shows_while_it_runs(browser: Browser, service: Service, tmp_path: Path) -> None:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    watched = await signed_in(context, service, "/live")
    async with service.client() as client:
        body: dict[str, Any] = {"type": "skill", "name": HOSTILE, "steps": [{"id": "s1", "name": "one"}]}
        made = (await client.post("/api/operations", json=body)).json()
        row = watched.page.locator(f'[data-id="{made["id"]}"]')
        await expect(row.locator("strong")).to_have_text(HOSTILE)
        await client.patch(f"/api/operations/{made['id']}", json={"status": "in_progress", "activity": "Reading"})
        await expect(row).to_contain_text("Reading")
        await expect(row.get_by_role("progressbar")).to_have_count(1)
    await watched.page.screenshot(path=tmp_path / "live.png")
    watched.check(service)


@pytest.mark.req("S1-10")
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_agents_stand_where_their_state_says(
    browser: Browser, service: Service, postgres_dsn: str, tmp_path: Path, motion: Any
) -> None:
    states = {"main": "tool", "rest": "idle", "gone": "offline", "old": "thinking", HOSTILE: "thinking"}
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as database:
        for agent, state in states.items():
            age = "20 minutes" if agent == "old" else "0 minutes"
            await database.execute(
                "INSERT INTO lobs.agents (gateway, agent, name, state, activity, state_at, seen_at)"
                " VALUES ('home', %s, %s, %s, 'Reading notes.md', now() - %s::interval, now())",
                [agent, agent, state, age],
            )
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion=motion)
    watched = await signed_in(context, service, "/office")
    page = watched.page
    for name, state in (("main", "working"), ("rest", "idle"), ("gone", "offline"), ("old", "stalled")):
        await expect(page.get_by_role("button", name=re.compile(f"^{name}: {state}"))).to_have_count(1)
    await expect(page.locator("svg.office img, svg.office b")).to_have_count(0)
    await page.get_by_role("button", name=re.compile("^main: ")).focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="Agent main")).to_contain_text("working")
    before = await page.locator("svg.office").get_attribute("viewBox")
    await page.get_by_role("button", name="Zoom in").click()
    assert await page.locator("svg.office").get_attribute("viewBox") != before
    await expect(page.get_by_role("button", name="Restart")).to_be_visible()
    for switch in ("Start gateway", "Stop gateway", "Look for updates", "Run update"):
        await expect(page.get_by_role("button", name=switch, exact=True)).to_be_visible()
    if motion == "reduce":
        running = "() => document.getAnimations().length"
        assert await page.evaluate(running) == 0
    await page.get_by_role("button", name="Show all").click()
    await expect(page.locator("svg.office")).to_have_attribute("viewBox", "0 0 1200 680")
    await page.locator("svg.office").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("svg.office")).to_have_attribute("viewBox", "40 0 1200 680")
    await page.keyboard.press("0")
    by_day = await page.locator(".floor").evaluate("floor => getComputedStyle(floor).fill")
    await page.get_by_role("button", name="Change between day and night").click()
    assert await page.locator(".floor").evaluate("floor => getComputedStyle(floor).fill") != by_day
    heat = page.get_by_role("button", name=re.compile("^rest: ")).locator(".heat")
    await expect(heat).to_have_attribute("opacity", "0.000")
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as database:
        event = OutboxEvent("agents", "tool_start", {"agent": "rest", "activity": "Walking over"}, "home")
        await outbox.publish(database, [event])
    await expect(page.get_by_role("button", name="rest: working, Walking over")).to_have_count(1)
    await expect(page.get_by_role("list", name="What agents do")).to_contain_text("Walking over")
    await expect(heat).not_to_have_attribute("opacity", "0.000")
    for width in (390, 1280, 1920):
        await page.set_viewport_size({"width": width, "height": 900})
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), width
        await page.screenshot(path=tmp_path / f"office-{width}.png")
    watched.check(service)


@pytest.mark.req("S1-7")
async def test_an_alert_shows_at_the_top_of_a_page_until_it_ends(browser: Browser, service: Service) -> None:
    watched = await signed_in(await browser.new_context(), service, "/live")
    banner = watched.page.locator("#banner")
    await expect(banner).to_be_hidden()
    alert = {
        "status": "firing",
        "labels": {"alertname": "GatewayDown", "severity": "critical", "gateway": "home"},
        "annotations": {"summary": HOSTILE},
        "startsAt": "2026-01-29T10:00:00Z",
        "fingerprint": "b2c1f5a0d9e8c7b6",
    }
    async with service.client() as client:
        (await client.post("/api/webhooks/alertmanager", json={"alerts": [alert]})).raise_for_status()
        await expect(banner).to_contain_text(f"GatewayDown home: {HOSTILE}")
        await expect(banner.get_by_role("link", name="Silence")).to_have_attribute("href", re.compile("^http"))
        ended = {**alert, "status": "resolved", "endsAt": "2026-01-29T10:05:00Z"}
        (await client.post("/api/webhooks/alertmanager", json={"alerts": [ended]})).raise_for_status()
    await expect(banner).to_be_hidden()
    watched.check(service)


@pytest.mark.req("S2-1")
async def test_a_token_signs_in_without_being_tried_as_the_password_and_signing_out_ends_a_log_in(
    browser: Browser, service: Service, postgres_dsn: str
) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    tried: list[str] = []
    page.on("request", lambda request: tried.append(request.url.removeprefix(service.url)))
    await page.goto(f"{service.url}/board")
    for wrong in ("lobs_" + "x" * 43, "y" * 43):
        await page.fill("#secret", wrong)
        await page.keyboard.press("Enter")
        await expect(page.locator("#signin-problem")).to_contain_text("not valid" if wrong[0] == "l" else "neither")
    assert tried.count("/api/auth/login") == 1, "what looks like a token of ours is tried as nothing else"
    await page.fill("#secret", "s" * 43)
    await page.keyboard.press("Enter")
    await expect(page.locator("#connection")).to_have_text("live")
    assert tried.count("/api/auth/login") == 1
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as database:
        cursor = await database.execute("SELECT count(*) FROM lobs.login_failures")
        assert await cursor.fetchone() == (1,)
    assert await page.evaluate("() => document.cookie + Object.keys(localStorage).join()") == ""
    assert (
        await page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return 'markup'; } catch { return 'refused'; } }"
        )
        == "refused"
    )
    await context.close()
    context = await browser.new_context()
    watched = await signed_in(context, service, "/board")
    token = await watched.page.evaluate("() => sessionStorage.getItem('lobservatory.token')")
    async with watched.page.expect_navigation():
        await watched.page.click("#leave")
    await expect(watched.page.locator("#signin")).to_be_visible()
    headers = {"Authorization": f"Bearer {token}"}
    async with service.client() as client:
        assert (await client.get("/api/auth/verify", headers=headers)).status_code == 401
    await context.close()
