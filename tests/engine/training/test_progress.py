"""What a run logs: lines of `log.jsonl`, and curves."""

from __future__ import annotations

import json

from ppdet_repro.engine.training.progress import TrainLog
from ppdet_repro.engine.training.step import StepReport


class TestLog:
    def report(self, loss, rate=0.1):
        return StepReport({"loss": loss}, rate, images=4, seconds=0.0)

    def entries(self, path):
        return [json.loads(line) for line in path.read_text().splitlines()]

    def test_a_line_every_log_iter_updates_has_the_means_since_the_last_line(self, tmp_path):
        with TrainLog(tmp_path / "log.jsonl", epochs=2, steps=5, log_iter=2) as log:
            for _ in range(2):
                log.start_epoch()
                for loss in (1.0, 2.0, 4.0, 6.0, 8.0):
                    log(self.report(loss))
            log.evaluation({"bbox_mAP": 0.5})
        found = [(e["kind"], e["epoch"], e["step"], e.get("loss")) for e in self.entries(tmp_path / "log.jsonl")]
        epoch = [(1, 1.0), (2, 2.0), (4, 5.0), (5, 8.0)]
        assert found == [
            *[("train", 1, step, loss) for step, loss in epoch],
            *[("train", 2, step + 5, loss) for step, loss in epoch],
            ("eval", 2, 10, None),
        ]

    def test_lines_of_repeated_updates_and_incomplete_lines_are_removed(self, tmp_path):
        path = tmp_path / "log.jsonl"
        path.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"ste')
        TrainLog(path, epochs=2, steps=5, done=5)
        assert [entry["step"] for entry in self.entries(path)] == [1, 5]

    def test_skipped_updates_leave_the_mean_finite(self, tmp_path):
        with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=3, log_iter=3) as log:
            log.start_epoch()
            for loss in (1.0, float("nan"), 3.0):
                log(self.report(loss))
        assert [entry["loss"] for entry in self.entries(tmp_path / "log.jsonl")] == [1.0, 3.0]

    def test_a_full_disk_does_not_end_the_training(self, tmp_path, logged):
        (tmp_path / "log.jsonl").mkdir()
        with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=1) as log:
            log.start_epoch()
            log(self.report(1.0))
        assert "cannot write the log" in logged.text
