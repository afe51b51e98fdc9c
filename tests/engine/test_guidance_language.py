"""The table of guidance mods, and their text form."""

import pytest

from sigmafield.guidance.hooks import Mods, classifier_free
from sigmafield.recipes.mods import MODS, parse_mods


@pytest.mark.parametrize("name", MODS)
def test_every_parameter_has_a_range_with_its_default_in(name):
    row = MODS[name]
    row(**row.defaults)
    for key, parameter in row.parameters.items():
        assert key in row.apply.__doc__, f"{name}'s docstring does not say what {key} is"
        assert type(parameter.default) is parameter.kind
        if parameter.choices or parameter.kind is bool:
            assert parameter.default in (parameter.choices or (True, False))
            continue
        if parameter.kind is str:
            with pytest.raises(ValueError, match=f"{name} needs {key} to be text; got 9"):
                row(**{key: 9})
            continue
        if parameter.kind is bool:
            row(**{key: not parameter.default})
            continue
        for end, beyond in ((parameter.range.low, -1), (parameter.range.high, 1)):
            if isinstance(end, str):
                end, beyond = row.defaults[end], 0
            else:
                row(**{key: parameter.kind(end)})
            with pytest.raises(ValueError, match=f"{name} needs .*{key}.*; got "):
                row(**{key: parameter.kind(end + beyond)})


def test_a_line_is_its_mods():
    mods = parse_mods("interval(end=0.5) + apg(eta=0.5, norm_threshold=5)+rescale(multiplier = .7)+cfg_norm+tsr")
    assert [len(stage) for stage in (mods.scale, mods.before, mods.after)] == [1, 1, 2]
    assert mods.before[0].keywords == {"eta": 0.5, "norm_threshold": 5.0}
    assert mods.combine.keywords == {"multiplier": 0.7}
    assert parse_mods("") == parse_mods(" ") == Mods() and Mods().combine is classifier_free
    for text in ("apg(eta=-0.5, form=paper)", "apg(eta=-.5, form='paper')"):
        assert parse_mods(text).before[0].keywords == {"eta": -0.5, "form": "paper"}
    for text in ("context(closed_loop=true, dim=0)", "context(closed_loop=True, dim=0)"):
        assert parse_mods(text).model[0].keywords == {"closed_loop": True, "dim": 0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("apgg", "unknown guidance mod 'apgg'; did you mean apg"),
        ("apg(etta=1)", "apg has no parameter 'etta'; did you mean eta"),
        ("apg(eta=11)", "apg needs -10 ≤ eta ≤ 10; got 11"),
        ("apg(eta=nan)", "apg needs eta to be a number; got 'nan'"),
        ("apg(eta='x')", "apg needs eta to be a number; got 'x'"),
        ("apg(eta=True)", "apg needs eta to be a number; got True"),
        ("fresca(freq_cutoff=2.5)", "fresca needs freq_cutoff to be a whole number; got 2.5"),
        ("apg(form=papr)", "apg needs form = comfyui or paper; got 'papr'"),
        ("interval(start=0.5, end=0.2)", "interval needs 0 ≤ start < end; got 0.5 and end = 0.2"),
        ("apg(**{})", "apg has no parameter"),
        ("apg+cfg_norm+apg", "guidance has apg twice; each acts once"),
        ("rescale+renorm", "rescale and renorm each replace U"),
        *(
            (text, "guidance must be names with parameters, such as apg.eta=0.5.+rescale")
            for text in ("apg(0.5)", "apg(", "apg-tcfg", "__import__('os').getcwd()", "apg(eta=1+1)", "1")
        ),
    ],
)
def test_errors_are_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_mods(text)
    assert "\n" not in str(error.value)
