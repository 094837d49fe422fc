"""Steps that tests of the studio share: drawing, waiting, a set, and what moved by itself."""

SHIFTED = """
    return new Promise(resolve => {
        const found = [];
        // What a person has just asked for may move things; nothing else may.
        const keep = each => each.hadRecentInput || found.push([each.value, ...each.sources.map(({ node }) =>
            node?.outerHTML?.slice(0, 120) ?? String(node))]);
        const seen = new PerformanceObserver(list => list.getEntries().forEach(keep));
        seen.observe({ type: 'layout-shift', buffered: true });
        setTimeout(() => resolve(found), 100);
    });
"""
MAX_SHIFT = 0.005  # the share of the page that may move; browsers call 0.1 good


def moved_too_far(page):
    """What moved by itself while the view was loading, with the share of the page that it moved over; [] if little."""
    moved = page.script(SHIFTED)
    return moved if sum(value for value, *_ in moved) > MAX_SHIFT else []


def draw(page, prompt="a happy cat", count=None):
    page.type("[name=prompt]", prompt)
    if count:
        page.type("[name=n]", str(count))
    page.press("Draw")


def wait_drawn(page, count):
    page.wait(".run .card:not(.pending) button.picture", count)


def new_set(page, prompts, name="Team reactions"):
    page.go("sets")
    page.press("New set")
    page.type("[name=name]", name)
    page.type("[name=lines]", "\n".join(prompts))
    page.press("Draw the set")
