import pytest
from transformers import set_seed

import hf_sed
from tests.training.helpers import arguments


@pytest.fixture
def make_trainer(make_detector, scenes, train_sources, tmp_path):
    def make(name="run", model=None, callbacks=None, evaluate=False, sources=None, **values):
        set_seed(0)
        return hf_sed.SedTrainer(
            model or make_detector(),
            arguments(tmp_path / name, **values),
            train_sources if sources is None else sources,
            scenes["validation"] if evaluate else None,
            callbacks=callbacks,
        )

    return make
