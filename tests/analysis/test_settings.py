from __future__ import annotations

import pytest
from pydantic import ValidationError

from mammo_sae.analysis.settings import EffectSettings, MatchedLatentSettings, QualitySettings


@pytest.mark.parametrize("settings", [EffectSettings, MatchedLatentSettings, QualitySettings])
def test_a_seed_below_zero_is_refused(settings):
    with pytest.raises(ValidationError, match="seed"):
        settings(seed=-1)
    assert settings(seed=0).seed == 0
