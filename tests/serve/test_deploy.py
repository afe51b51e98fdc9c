"""What is deployed fits the server: flags that it has, files that exist, measurements that it makes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serving import Client

from command_line import run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def measured(server: Client) -> dict[str, set[str]]:
    """The measurements of a server that has done a job, with their labels."""
    server.until(server.submit(), "done")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").body.decode()):
        for suffix in SUFFIXES[family.type]:
            name = family.name + suffix
            found[name] = {key for each in family.samples if each.name == name for key in each.labels}
    return found


def queries() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "sigmafield.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("query", queries())
def test_the_dashboard_asks_for_what_the_server_measures(query, measured):
    names = re.findall(r"sigmafield_\w+", query)
    assert names and not set(names) - measured.keys()
    for name, inside in re.findall(r"(sigmafield_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|=|!=)", inside)) <= measured[name] | {"le"}, query
    for labels in re.findall(r"by \(([^)]*)\)", query):
        assert {label.strip() for label in labels.split(",")} <= set().union(*(measured[name] for name in names))


def test_panels_do_not_overlap():
    panels = json.loads((DEPLOY / "grafana" / "sigmafield.json").read_text())["panels"]
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def commands(compose: dict[str, Any]) -> dict[str, list[str]]:
    """The server's command lines, by what has them."""
    unit = re.search(r"^ExecStart=(.*)$", (DEPLOY / "sigmafield.service").read_text(), re.MULTILINE)
    image = re.search(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert unit and image
    return {
        "unit": shlex.split(unit[1]),
        "image": json.loads(image[1]),
        "compose": shlex.split(compose["services"]["sigmafield"]["command"]),
    }


def test_command_lines_have_flags_that_there_are(compose):
    known = set(re.findall(r"--[a-z-]+", run("serve", "--help").stdout))
    for where, words in commands(compose).items():
        assert Path(words[0]).name == "sigmafield" and words[1] == "serve", where
        assert {word for word in words if word.startswith("--")} <= known, where


def test_the_page_of_deployment_has_every_setting():
    told = set(re.findall(r"--[a-z-]+", (ROOT / "docs" / "deploy.md").read_text()))
    known = set(re.findall(r"--[a-z][a-z-]+", run("serve", "--help", columns=200).stdout))
    assert {flag for flag in known if not flag.startswith("--no-")} - {"--help", "--version"} <= told


def test_the_compose_file_is_whole(compose):
    """Files that it mounts exist, volumes and secrets are declared, and ports are this machine's."""
    services = compose["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.rpartition(":/")[0] if not volume.startswith("${") else ""
            assert not source or source in compose["volumes"] or (DEPLOY / source).is_file(), (name, volume)
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service.get("depends_on", [])) <= services.keys()
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    [target] = scrape["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert host in services and f":{port}" in services[host]["ports"][0]
    assert f"--allow-host {host}" in services[host]["command"], "the server refuses other names"
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    assert source["uid"] in (DEPLOY / "grafana" / "sigmafield.json").read_text()


def test_the_image_runs_as_a_user_with_a_volume_and_a_check_of_health(server):
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (?!root)", text, re.MULTILINE) and "VOLUME /jobs" in text
    asked = re.search(r"HEALTHCHECK.*?(/\w+)'", text, re.DOTALL)
    assert asked and server.get(asked[1]).status == 200


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
def test_systemd_takes_the_unit(tmp_path):
    """Of the program, which is not installed here, systemd's own stands in."""
    text = (DEPLOY / "sigmafield.service").read_text().replace("/opt/sigmafield/bin/sigmafield", "/bin/true")
    (tmp_path / "sigmafield.service").write_text(text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "sigmafield.service")], capture_output=True, text=True
    )
    said = [line for line in ran.stderr.splitlines() if "sigmafield.service" in line]
    assert ran.returncode == 0 and said == [], ran.stderr
