"""What an engine leaves to other threads: images fitted while they are fetched, finished later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dstc.engines.guided import GUIDED
from dstc.engines.spec import EngineSpec
from dstc.planning.settings import Settings, make_settings
from dstc.worker import translate_shard
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import ImageArray, Translation, TranslationRequest
from tests.unit.dstc.one_actor import Columns, MakeJob, Write


def test_requests_are_prepared_in_fetch_threads_and_images_finished_in_write_threads(
    write_manifest: Write,
    good_rows: Columns,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[tuple[str, str]] = set()

    def note(what: str) -> None:
        seen.add((what, threading.current_thread().name.partition("_")[0]))

    def prepare(settings: Settings) -> Callable[[TranslationRequest], TranslationRequest]:
        def prepared(request: TranslationRequest) -> TranslationRequest:
            note("prepare")
            return replace(request, content=np.zeros((64, 64, 3), np.uint8))

        return prepared

    class Later(FakeEngine):
        def step(self) -> list[Translation]:
            note("step")
            return [replace(t, image=finish_later(t.image)) for t in super().step()]

    def finish_later(image: ImageArray | None) -> Callable[[], ImageArray]:
        def finish() -> ImageArray:
            note("finish")
            assert image is not None
            return image

        return finish

    spec = EngineSpec(
        name="later", make=lambda task: lambda slots: Later(TINY64, slots), prepare=prepare
    )
    monkeypatch.setattr(translate_shard, "find_engine", lambda name: spec)
    results = make_job(write_manifest(good_rows(4))).translate().to_pylist()
    assert [row["status"] for row in results] == ["done"] * 4
    assert seen == {("prepare", "fetch"), ("step", "engine"), ("finish", "write")}


def test_the_guided_engine_has_its_images_fitted() -> None:
    settings = make_settings(manifest="m.parquet", output="out")
    content = np.zeros((90, 120, 3), np.uint8)
    request = TranslationRequest("a", content, 0, prompt="a fox")
    ready = GUIDED.prepare(settings)(request)
    assert ready.content.shape == (64, 64, 3) and ready.content_size == (90, 120)
