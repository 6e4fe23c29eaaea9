"""Path templates."""

from __future__ import annotations

import random

import pytest

from replaykit import _core
from replaykit.engine.endpoint import Templates

CASES = {
    "/": "/",
    "/users/42": "/users/{id}",
    "/users/42/orders/7/": "/users/{id}/orders/{id}/",
    "/v1/items": "/v1/items",
    "/o/123e4567-e89b-12d3-a456-426614174000": "/o/{uuid}",
    "/d/2026-11-21/x": "/d/{date}/x",
    "/blob/d41d8cd98f00b204e9800998ecf8427e": "/blob/{hash}",
    "/static/app.3f2a9c1b.js": "/static/app.{hash}.js",
    "/static/bundle.js": "/static/bundle.js",
    "/report_2024-01-02.pdf": "/report_{id}-{id}-{id}.pdf",
    "/order-12345": "/order-{id}",
    "/mail/someone@example.org": "/mail/{email}",
    "/s/AbC9xYz01QwErTy7": "/s/{token}",
    "/p/how-to-measure-the-bandwidth": "/p/how-to-measure-the-bandwidth",
    "/x/" + "y" * 65: "/x/{long}",
    "/a" * 14: "/a" * 12 + "/{rest}",
    "/café/日本": "/café/日本",
    "*": "*",
    "": "",
}
PATTERNS = ["/users/{name}", "/users/me", "/files/*", "/a/{x}/c"]


@pytest.mark.parametrize("path", CASES)
def test_shapes(path: str) -> None:
    assert Templates().endpoint(path) == CASES[path]
    assert _core.endpoints([], [path]) == [CASES[path]]


def test_patterns_come_first_and_the_most_literal_wins() -> None:
    paths = ["/users/me", "/users/bob", "/users/bob/x9999", "/files/a/b/c", "/files/", "/a/b/c", "/a//c"]
    want = ["/users/me", "/users/{name}", "/users/bob/x9999", "/files/*", "/files/*", "/a/{x}/c", "/a//c"]
    assert [Templates(PATTERNS).endpoint(p) for p in paths] == want
    assert _core.endpoints(PATTERNS, paths) == want


def test_both_engines_agree_on_anything() -> None:
    r = random.Random(3)
    paths = ["/" + "".join(r.choices("abcdef0123456789-_./@=Zé", k=r.randrange(50))) for _ in range(5000)]
    assert [Templates(PATTERNS).endpoint(p) for p in paths] == _core.endpoints(PATTERNS, paths)
