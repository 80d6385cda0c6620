from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

APPEND = """
import pathlib, sys
name, source, target = sys.argv[1:4]
log = pathlib.Path("log.txt")
log.write_text((log.read_text() if log.exists() else "") + name + "\\n")
if pathlib.Path(f"break-{name}").exists():
    pathlib.Path(f"break-{name}").unlink()
    sys.exit("planted fault in " + name)
pathlib.Path(target).write_text(pathlib.Path(source).read_text() + name + "\\n")
"""


@pytest.fixture
def toy(dvc_project: Path) -> Path:
    """Two stages, written in the wrong order in the file: `second` reads what `first` writes."""
    (dvc_project / "append.py").write_text(APPEND)
    (dvc_project / "raw.txt").write_text("raw\n")
    (dvc_project / ".gitignore").write_text("/*.txt\n")
    stages = {
        "second": {"cmd": "python append.py second a.txt b.txt", "deps": ["a.txt"], "outs": ["b.txt"]},
        "first": {"cmd": "python append.py first raw.txt a.txt", "deps": ["raw.txt"], "outs": ["a.txt"]},
    }
    (dvc_project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    return dvc_project


def test_stages_run_in_the_order_of_the_graph_and_only_when_out_of_date(toy: Path, prefect_server: None):
    from flows.reproduce import reproduce

    assert reproduce(str(toy), 0, 0.0) == {"first": ["first"], "second": ["second"]}
    assert (toy / "b.txt").read_text() == "raw\nfirst\nsecond\n"
    assert reproduce(str(toy), 0, 0.0) == {"first": [], "second": []}
    assert (toy / "log.txt").read_text() == "first\nsecond\n"


def test_a_stage_that_fails_once_is_tried_again(toy: Path, prefect_server: None):
    from flows.reproduce import reproduce

    (toy / "break-second").touch()
    assert reproduce(str(toy), 1, 0.0) == {"first": ["first"], "second": ["second"]}
    assert (toy / "log.txt").read_text() == "first\nsecond\nsecond\n"


def test_a_stage_that_keeps_failing_fails_the_flow_and_stops_it(toy: Path, prefect_server: None):
    from flows.reproduce import StageFailedError, reproduce

    (toy / "break-first").touch()
    with pytest.raises(StageFailedError, match=r"stage 'first' failed with exit code [1-9](.|\n)*planted fault in first"):
        reproduce(str(toy), 0, 0.0)
    assert (toy / "log.txt").read_text() == "first\n"


def test_the_comparison_is_published_as_an_artifact(toy: Path, prefect_server: None):
    from prefect.artifacts import Artifact

    from flows.reproduce import ARTIFACT_KEY, reproduce

    (toy / "reports").mkdir()
    (toy / "reports" / "comparison.md").write_text("| arm | box mAP50 |\n")
    reproduce(str(toy), 0, 0.0)
    artifact = Artifact.get(ARTIFACT_KEY)
    assert artifact is not None
    assert artifact.data == "| arm | box mAP50 |\n"


def test_who_stops_a_flow_stops_the_stage_under_way(toy: Path, monkeypatch: pytest.MonkeyPatch):
    """DVC alone would end and leave the stage's process running."""
    from flows import reproduce

    class Interrupting:
        def info(self, _: str, line: str) -> None:
            if line.startswith("begun"):
                raise KeyboardInterrupt

    (toy / "long.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nprint('begun', flush=True)\ntime.sleep(300)\n"
    )
    (toy / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"long": {"cmd": "python long.py"}}}))
    monkeypatch.setattr(reproduce, "get_run_logger", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_stage.fn("long", str(toy))
    number, end = int((toy / "pid").read_text()), time.monotonic() + 30
    while Path(f"/proc/{number}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{number}").exists()


def test_a_folder_without_a_graph_is_a_plain_error(tmp_path: Path):
    from flows.graph import GraphError, stage_groups

    with pytest.raises(GraphError, match=r"no dvc\.yaml here"):
        stage_groups(tmp_path)


def test_every_stage_of_this_project_comes_after_what_it_reads():
    from flows.graph import stage_groups

    order = stage_groups(ROOT)
    assert order[0] == "prepare"
    assert order[-1] == "report"
    assert sorted(order) == sorted(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert order.index("learn_concept") < order.index("synthesize") < order.index("select") < order.index("label")


def test_ties_are_broken_by_the_file_and_tracked_files_are_left_out():
    from flows.graph import sort_groups

    dot = '"c" -> "a";\n"photos.dvc" -> "b";\n"c" -> "b";'
    assert sort_groups(["a", "b", "c", "d"], dot) == ["c", "a", "b", "d"]


def test_help_answers_without_prefect():
    code = "import sys, flows.__main__ as m; m.build_parser(); print('prefect' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


COUNT = """
import json, pathlib, yaml
k = yaml.safe_load(open("params.yaml"))["prepare"]["k"]
if pathlib.Path(f"{pathlib.Path.cwd()}-breaks").exists():
    raise SystemExit("planted fault")
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports/comparison.json").write_text(json.dumps({"parts": 2 * k}))
"""


@pytest.fixture
def counting(dvc_project: Path) -> Path:
    """A committed project with the real parameters and one stage that writes twice `prepare.k` into its comparison."""
    for name in ("pipeline", "detectors", "params.yaml", "profiles"):
        (dvc_project / name).symlink_to(ROOT / name)
    (dvc_project / "params.yaml").unlink()
    (dvc_project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (dvc_project / "data").mkdir()
    (dvc_project / "data" / "targets.yaml").write_text("default: 1\ntypes: {}\n")
    (dvc_project / "count.py").write_text(COUNT)
    (dvc_project / ".gitignore").write_text(".work/\n")
    stage = {"cmd": "python count.py", "deps": ["count.py"], "params": ["prepare.k"], "outs": ["reports/comparison.json"]}
    (dvc_project / "dvc.yaml").write_text(yaml.safe_dump({"vars": [{"detectors": ["a", "b"]}], "stages": {"count": stage}}))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "--all"], cwd=dvc_project, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "toy"], cwd=dvc_project, check=True)
    return dvc_project


def test_a_sweep_runs_the_flow_at_every_value_and_goes_on_where_it_failed(counting: Path):
    from flows.copies import CopyError
    from flows.sweep import Sweep, sweep

    wanted = Sweep(counting, "prepare.k", ["2", "7"], ["b"])
    fault = wanted.copy_of("7").with_name("prepare.k=7-breaks")
    fault.parent.mkdir(parents=True)
    fault.touch()
    with pytest.raises(CopyError, match="planted fault"):
        sweep(wanted, 1, afresh=False)
    assert not wanted.result.exists()

    fault.unlink()
    found = json.loads(sweep(wanted, 2, afresh=False).read_text())
    assert found == {"parameter": "prepare.k", "points": [{"value": 2, "parts": 4}, {"value": 7, "parts": 14}]}
    assert yaml.safe_load((wanted.copy_of("2") / "dvc.yaml").read_text())["vars"] == [{"detectors": ["b"]}]
    assert yaml.safe_load((counting / "params.yaml").read_text())["prepare"]["k"] == 5


def test_a_sweep_does_not_mix_points_of_before_and_after_a_change(counting: Path):
    from flows.copies import CopyError
    from flows.sweep import Sweep, sweep

    sweep(Sweep(counting, "prepare.k", ["2"], []), 1, afresh=False)
    params = counting / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["train"]["steps"] += 1
    params.write_text(yaml.safe_dump(document))
    wanted = Sweep(counting, "prepare.k", ["2", "7"], [])
    with pytest.raises(CopyError, match=r"k=2 and \S+k=7 differ in more than prepare\.k \(params\.yaml\): .* AFRESH=1"):
        sweep(wanted, 1, afresh=False)
    found = json.loads(sweep(wanted, 1, afresh=True).read_text())
    assert [point["parts"] for point in found["points"]] == [4, 14]


def test_a_sweep_of_an_unknown_parameter_says_so(counting: Path):
    from flows.copies import CopyError
    from flows.sweep import Sweep, sweep

    with pytest.raises(CopyError, match=r"prepare\.kk: unknown parameter; nearest valid name: 'k'"):
        sweep(Sweep(counting, "prepare.kk", ["2"], []), 1, afresh=False)


def test_a_sweep_of_a_value_that_no_training_takes_says_so_before_anything_runs(counting: Path):
    """Two good photos of eight leave six: a share of 0.02 is none of them."""
    from flows.copies import CopyError
    from flows.sweep import Sweep, sweep

    with pytest.raises(CopyError, match=r"mix\.share 0\.02 leaves no synthetic photo"):
        sweep(Sweep(counting, "mix.share", ["0.02", "0.5"], []), 1, afresh=False)


def test_a_sweep_over_folders_of_the_user_finds_them_from_the_copies(counting: Path):
    """They are not committed, so that a copy has neither the one in params.yaml nor those of the sweep."""
    from flows.sweep import Sweep, sweep

    for name in ("one", "two"):
        (counting / ".work" / name).mkdir(parents=True)
    params = counting / "params.yaml"
    params.write_text(params.read_text().replace("source: embedded", "source: .work/one"))
    wanted = Sweep(counting, "learn_base.source", [".work/two", "embedded"], [])
    sweep(wanted, 1, afresh=False)
    sources = [yaml.safe_load((wanted.copy_of(v) / "params.yaml").read_text())["learn_base"]["source"] for v in wanted.values]
    assert sources == [str((counting / ".work" / "two").resolve()), "embedded"]
