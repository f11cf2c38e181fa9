"""What every test of a capture gets."""

import pytest

from tb_firstloss.capture.recorder import Recorder


@pytest.fixture(autouse=True)
def _unused_recorders_are_silent_in_later_tests(monkeypatch):
    """A recorder in a cycle dies at any time, and would say then that it was not used."""
    made, init = [], Recorder.__init__

    def noted_init(self, options):
        made.append(self)
        init(self, options)

    monkeypatch.setattr(Recorder, "__init__", noted_init)
    yield
    for recorder in made:
        recorder.unsaid = None
