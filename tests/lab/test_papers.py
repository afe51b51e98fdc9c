"""Every name of the registries has a citation, and the bibliography is well-formed."""

import re
from importlib.resources import files

import pytest

from sigmafield.citations import bibliography, cite, sources
from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

TEXT = (files("sigmafield") / "data" / "papers.bib").read_text("utf-8")


ROWS = [*SAMPLERS.values(), *SCHEDULES.values(), *MODS.values()]


def test_every_paper_is_in_the_bibliography():
    """All arXiv numbers of a row are found, and a row without a number names software."""
    for row in ROWS:
        found = sources(row.paper)
        assert found, row.name
        numbers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", row.paper)
        assert [entry.fields["eprint"] for entry in found if "eprint" in entry.fields] == numbers, row.name
        assert {entry.key for entry in found} <= {entry.key for entry in cite(row.name)}, row.name


def test_the_bibliography_is_well_formed():
    """Every @ begins an entry that is parsed; braces close; keys and numbers are unique; years fit arXiv numbers."""
    entries = bibliography().values()
    assert len(entries) == len(re.findall(r"^@", TEXT, re.MULTILINE)) == len(re.findall(r"^\}", TEXT, re.MULTILINE))
    numbers = [entry.fields["eprint"] for entry in entries if "eprint" in entry.fields]
    assert len(set(numbers)) == len(numbers)
    for entry in entries:
        assert entry.text.count("{") == entry.text.count("}")
        assert entry.text.count(" = ") == len(entry.fields)
        assert entry.fields["title"] and entry.fields["author"] and re.fullmatch(r"20\d\d", entry.fields["year"])
        if "eprint" in entry.fields:
            assert entry.fields["url"] == f"https://arxiv.org/abs/{entry.fields['eprint']}"
            assert entry.fields["year"][2:] == entry.fields["eprint"][:2]


def test_references_are_short():
    assert str(bibliography()["zhang2022deis"]) == (
        "Zhang and Chen (2022): Fast Sampling of Diffusion Models with Exponential Integrator. arXiv:2204.13902"
    )
    assert str(bibliography()["lu2022dpmsolverpp"]).startswith("Lu et al. (2022): DPM-Solver++: Fast Solver")
    assert str(bibliography()["crowson2022kdiffusion"]).startswith("Crowson (2022): k-diffusion. https://")


def test_cite():
    assert [entry.key for entry in cite()] == ["sigmafield"]
    assert [entry.key for entry in cite("dpmpp_2m_cfg_pp", "dpmpp_2m", "karras")] == [
        "lu2022dpmsolverpp", "chung2024cfgpp", "karras2022edm",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no sampler, schedule or guidance 'kerras' to cite; did you mean karras"):
        cite("kerras")
