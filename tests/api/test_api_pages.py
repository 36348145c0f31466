"""Our web pages in a real browser, under the strict policy that they are served with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.api.conftest import PASSWORD
from tests.api.test_api_process import Service, running
from tests.servers import PATIENCE_SECONDS
from tests.tools import debian_tool

pytestmark = pytest.mark.browser
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
expect.set_options(timeout=PATIENCE_SECONDS * 1000)  # a machine under load draws slowly; nothing here is about how fast


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = debian_tool("chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest.fixture
async def service(process_environment) -> AsyncIterator[Service]:
    async with running(process_environment) as made:
        yield made


async def test_the_pages_work_offline_and_follow_the_colour_scheme(browser: Browser, service: Service) -> None:
    grounds = set()
    problems: list[str] = []
    asked: list[str] = []
    for scheme in ("light", "dark"):
        context = await browser.new_context(color_scheme=scheme)
        page = await context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))

        await page.goto(service.url)
        await expect(page.locator("#state")).to_have_text("The service is ready.")
        grounds.add(await page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor"))
        if scheme == "dark":
            continue

        await page.goto(f"{service.url}/docs")
        await page.fill("#secret", PASSWORD)
        await page.click("#login button")
        await expect(page.locator("#who")).to_have_text("Signed in: read, write, command, admin.")
        create = page.locator("details").filter(has=page.locator("summary .verb", has_text="POST"))
        create = create.filter(has=page.get_by_text("/api/operations", exact=True))
        await create.locator("summary").click()
        await create.get_by_role("button", name="Send").click()
        await expect(create.locator("pre").first).to_contain_text('201 Created\n{\n  "id": "op_')
        assert await page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
    assert len(grounds) == 2
    assert problems == []
    assert [url for url in asked if not url.startswith(service.url)] == []
