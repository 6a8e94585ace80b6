"""Which checkpoint a killed run continues from."""

from tinybert.resume import last_checkpoint, resume_beside


def test_the_newest_whole_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").touch()
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10):  # 100 was cut off: the Trainer writes its state last
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_it_lies_beside_the_output(tmp_path):
    assert resume_beside(tmp_path / "a") == tmp_path / "a-resume"
