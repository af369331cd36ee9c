"""A talk in the browser: it streams, stops, is asked again, is edited, and outlives a reload."""

import asyncio
import json

import pytest
from playwright.sync_api import expect


def ask(page, text):
    page.locator("#question").fill(text)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator("#talk > .assistant > .markdown")


def test_an_answer_is_shown_before_it_ends_and_then_what_it_took(sites, look):
    site = sites({"": "The **first** and the rest."}, hold=asyncio.Event())
    page = look(site)
    ask(page, "hi")
    expect(answers(page)).to_have_text("T")
    expect(page.locator("#stop")).to_be_visible()
    site.release()
    expect(answers(page)).to_have_text("The first and the rest.")
    expect(answers(page).locator("strong")).to_have_text("first")
    told = page.locator("#talk .told")
    expect(told).to_contain_text("tokens/s")
    for part in ("hit rate 75 %", "4.1 kB read", "0.3 s waiting for reads", "(8 remembered)"):
        expect(told).to_contain_text(part)
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("0 running, 0 waiting", timeout=3000)


def test_reasoning_stands_apart_from_the_answer(sites, look):
    site = sites({"": "<think>\nHm, well.\n</think>\n\nYes."}, hold=asyncio.Event())
    page = look(site)
    thoughts = page.locator("#talk .reasoning .markdown")
    ask(page, "is it?")
    page.wait_for_timeout(100)
    site.release()
    expect(answers(page)).to_have_text("Yes.")
    expect(thoughts).to_be_hidden()
    page.locator("#talk summary").click()
    expect(thoughts).to_have_text("Hm, well.")


def test_thoughts_are_seen_while_there_is_nothing_else(sites, look):
    site = sites({"": "<think>\nHm, well.\n</think>\n\nYes."}, pause=0.05)
    page = look(site)
    ask(page, "is it?")
    expect(page.locator("#talk .reasoning .markdown")).to_contain_text("Hm")
    expect(page.locator("#talk .reasoning .markdown")).to_be_visible()


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_a_stopped_answer_ends_its_job_and_stays(way, sites, look):
    site = sites({"": "Never the end."}, hold=asyncio.Event())
    page = look(site)
    ask(page, "hi")
    expect(answers(page)).to_have_text("N")
    if way == "button":
        page.locator("#stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#talk .told")).to_have_text("stopped")
    expect(answers(page)).to_have_text("N")
    page.wait_for_timeout(200)
    assert len(site.engine.cancelled) == 1 and site.engine.running == 0


def test_a_talk_is_sent_whole_and_an_answer_can_be_asked_for_again(sites, look):
    site = sites({"": "One.", "more": "Two."})
    page = look(site)
    ask(page, "hi")
    expect(answers(page)).to_have_text("One.")
    ask(page, "more")
    expect(answers(page)).to_have_text(["One.", "Two."])
    prompt = site.engine.tokenizer.decode(list(site.engine.jobs[-1].ids), skip_special_tokens=False)
    assert prompt.index("hi") < prompt.index("One.") < prompt.index("more")
    site.engine.script["more"] = "Three."
    page.locator("#talk [data-action=retry]").last.click()
    expect(answers(page)).to_have_text(["One.", "Three."])
    assert len(site.engine.jobs) == 3 and site.engine.jobs[1].ids == site.engine.jobs[2].ids


@pytest.mark.parametrize("way", ["button", "ArrowUp"])
def test_an_edited_question_takes_the_place_of_what_followed_it(way, sites, look):
    page = look(sites({"": "One.", "other": "Two."}))
    ask(page, "hi")
    expect(answers(page)).to_have_text("One.")
    if way == "button":
        page.locator("#talk [data-action=edit]").click()
    else:
        page.keyboard.press("ArrowUp")
    expect(page.locator("#question")).to_have_value("hi")
    expect(page.locator("#editing")).to_be_visible()
    ask(page, "other")
    expect(answers(page)).to_have_text("Two.")
    expect(page.locator("#talk > .user > .text")).to_have_text("other")


def test_an_edit_of_what_has_gone_is_left(sites, look):
    page = look(sites({"": "One.", "more": "Two."}))
    for text, said in {"hi": ["One."], "more": ["One.", "Two."]}.items():
        ask(page, text)
        expect(answers(page)).to_have_text(said)
    page.keyboard.press("ArrowUp")
    expect(page.locator("#editing")).to_be_visible()
    page.locator("#talk [data-action=retry]").first.click()
    expect(page.locator("#editing")).to_be_hidden()
    expect(answers(page)).to_have_text(["One."])
    ask(page, "more")
    expect(answers(page)).to_have_text(["One.", "Two."])


def test_an_edit_can_be_left(sites, look):
    page = look(sites({"": "One."}))
    ask(page, "hi")
    expect(answers(page)).to_have_text("One.")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    expect(page.locator("#question")).to_have_value("")
    expect(page.locator("#editing")).to_be_hidden()
    expect(answers(page)).to_have_text("One.")


def test_a_reload_keeps_the_talk_and_new_begins_another(sites, look):
    page = look(sites({"": "One."}))
    ask(page, "hi")
    expect(page.locator("#talk .told")).to_contain_text("tokens/s")
    page.reload()
    expect(answers(page)).to_have_text("One.")
    page.locator("#new").click()
    expect(answers(page)).to_have_count(0)
    page.reload()
    expect(page.locator("#model")).to_contain_text("context")
    expect(answers(page)).to_have_count(0)


@pytest.mark.parametrize("kept", ["{", "3", '[{"role": "system", "content": "x"}]', "[null]"])
def test_a_talk_that_is_none_is_left_out(kept, sites, look):
    page = look(sites({"": "One."}))
    page.evaluate("text => localStorage.setItem('moeflux.talk', text)", kept)
    page.reload()
    ask(page, "hi")
    expect(answers(page)).to_have_text("One.")


def test_answers_and_their_code_are_copied(sites, look):
    page = look(sites({"": "A *word*.\n\n```py\nx < 1\n```"}))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "hi")
    for action, text in {"copy": "A *word*.\n\n```py\nx < 1\n```", "copy-code": "x < 1"}.items():
        page.locator(f"#talk [data-action={action}]").click()
        expect(page.locator(f"#talk [data-action={action}]")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_there_is_nothing_to_copy_with_where_the_browser_forbids_it(sites, look):
    page = look(sites({"": "`a`\n\n```\nb\n```"}), before="delete Navigator.prototype.clipboard")
    ask(page, "hi")
    expect(page.locator("#talk .told")).to_contain_text("tokens/s")
    assert page.locator("#talk button").all_inner_texts() == ["Edit", "Retry"]


def test_settings_reach_the_engine_and_stay(sites, look):
    site = sites({"": "One."})
    page = look(site)
    page.locator("#open-settings").click()
    for name, value in {
        "temperature": "0.25",
        "top_k": "7",
        "seed": "11",
        "max_tokens": "3",
    }.items():
        page.locator(f"[name={name}]").fill(value)
    page.locator("[name=system]").fill("Be brief.")
    page.locator("[name=enable_thinking]").select_option("false")
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "hi")
    expect(answers(page)).to_have_text("One")
    (job,) = site.engine.jobs
    chosen = job.sampling
    assert (chosen.temperature, chosen.top_k, chosen.seed, chosen.max_tokens) == (0.25, 7, 11, 3)
    prompt = site.engine.tokenizer.decode(list(job.ids), skip_special_tokens=False)
    assert "Be brief." in prompt and prompt.endswith("<think>\n\n</think>\n\n")


def test_a_key_is_asked_for_where_there_is_one(sites, look):
    site = sites({"": "One."}, {"api_keys": ("secret",)})
    page = look(site, fine=False, ready="scripted")  # the console tells of the 401
    expect(page.locator("#state")).to_have_text("a key is wanted: Settings")
    ask(page, "hi")
    expect(page.locator("#talk .failure")).to_contain_text("a key is wanted")
    page.locator("[name=key]").fill("secret")
    page.keyboard.press("Escape")
    expect(page.locator("#model")).to_contain_text("context")
    page.locator("#talk [data-action=retry]").click()
    expect(answers(page)).to_have_text("One.")
    assert page.evaluate("JSON.stringify(localStorage)").count("secret") == 0


GONE = {"choices": [{"delta": {"content": "Half"}, "finish_reason": None}]}
STREAMS = [
    (json.dumps(GONE), "the server went away before the answer ended"),
    (json.dumps({"error": {"message": "an expert cannot be read"}}), "an expert cannot be read"),
]


@pytest.mark.parametrize(("data", "says"), STREAMS)
def test_a_stream_that_breaks_says_so(data, says, sites, look):
    page = look(sites({"": "One."}))
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=f"data: {data}\n\n"),
    )
    ask(page, "hi")
    expect(page.locator("#talk .failure")).to_have_text(says)
    page.unroute("**/v1/chat/completions")
    page.locator("#talk [data-action=retry]").click()
    expect(answers(page)).to_have_text("One.")
    expect(page.locator("#talk .failure")).to_be_hidden()


def test_a_refusal_is_shown_in_the_servers_words(sites, look):
    page = look(sites({"": "One."}, context=4), fine=False)  # the console tells of the 400
    ask(page, "hi")
    expect(page.locator("#talk .failure")).to_contain_text("the context of this model holds 4")


def test_a_server_that_is_gone_is_told_of(sites, look):
    site = sites({"": "One."})
    page = look(site, fine=False)
    site.end()
    ask(page, "hi")
    expect(page.locator("#talk .failure")).to_have_text("the server cannot be reached")
    expect(page.locator("#state")).to_have_text("the server cannot be reached")
