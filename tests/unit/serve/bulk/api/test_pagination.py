"""Tests of paginated lists."""


def test_lists_are_paginated_newest_first(service):
    ids = [service.create(prompts=[str(number)]) for number in range(5)][::-1]
    first = service.call("GET", "/v1/emoji-sets", params={"limit": 3}).json()
    rest = service.call("GET", "/v1/emoji-sets", params={"limit": 3, "after": first["last_id"]}).json()
    assert [job["id"] for job in first["data"] + rest["data"]] == ids
    assert first["has_more"] and not rest["has_more"]
