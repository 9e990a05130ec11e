"""Many questions at once, good and bad: the same answers as one by one, and an unchanged model."""

from concurrent.futures import ThreadPoolExecutor

from tests.explorer.conftest import TEXT, fingerprint, png
from tests.lenses import picture


def test_questions_at_once_are_answered_as_one_by_one_and_leave_the_model_unchanged(page, lens, two):
    before = fingerprint(lens)
    a, b = two
    place = page.place(a, 0)
    ablated = [{"layer": layer, "neuron": neuron, "factor": 0.0} for layer in range(3) for neuron in range(5)]
    between = {"clean": a, "corrupted": b, **place}
    questions = [
        ("/api/look", {"picture": a, "text": TEXT}),
        ("/api/look", {"picture": b, "text": "cat"}),
        ("/api/why", {"picture": a, **place, "top_k": 5}),
        ("/api/change", {"picture": a, **place, "neurons": ablated}),
        ("/api/change", {"picture": b, **place, "neurons": [{"layer": 1, "neuron": 2, "factor": 4.0}]}),
        ("/api/patch", {**between, "layers": [0, 1], "patches": [0, 4]}),
        ("/api/sweep", {**between, "layer": 2}),
        ("/api/why", {"picture": a, **place, "top_k": 5, "target": 97}),
        ("/api/change", {"picture": a, **place, "neurons": [{"layer": 9, "neuron": 0, "factor": 0.0}]}),
        ("/api/patch", {**between, "layers": [0], "patches": [99]}),
        ("/api/look", {"picture": "sample-999", "text": TEXT}),
    ]
    token = page.token

    def ask(question):
        path, body = question
        response = page.client.post(path, json=body, headers={"x-explorer-token": token})
        return response.status_code, response.json()

    one_by_one = [ask(question) for question in questions]
    assert sorted({status for status, _ in one_by_one}) == [200, 400, 404]
    with ThreadPoolExecutor(12) as pool:
        at_once = list(pool.map(ask, questions * 4))
    assert at_once == one_by_one * 4
    assert fingerprint(lens) == before


def test_uploads_at_once_are_all_held(page, lens):
    before = fingerprint(lens)
    token = page.token

    def upload(seed: int) -> str:
        headers = {"x-explorer-token": token}
        return page.client.post("/api/pictures", content=png(picture(seed)), headers=headers).json()["id"]

    with ThreadPoolExecutor(3) as pool:
        names = list(pool.map(upload, range(3)))
    captions = [page.ask("/api/look", picture=name, text=TEXT)["caption"]["text"] for name in names]
    assert captions == [lens.caption(picture(seed), TEXT, max_new_tokens=6) for seed in range(3)]
    assert fingerprint(lens) == before


def test_the_fingerprint_sees_a_changed_weight_and_a_left_hook(lens):
    before = fingerprint(lens)
    parameter = next(lens.model.parameters())
    old = parameter.detach().clone()
    parameter.data[0] += 1
    assert fingerprint(lens) != before
    parameter.data.copy_(old)
    assert fingerprint(lens) == before
    handle = lens.vision.register_forward_hook(lambda *_: None)
    assert fingerprint(lens) != before
    handle.remove()
    assert fingerprint(lens) == before
