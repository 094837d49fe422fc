"""What the manifests run exists: commands, options, config, the serve app; and each cluster is as large as asked."""

import functools
import shlex

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from emoji_ldm.config import load
from emoji_ldm.kubernetes.lint.pods import pods, ray_cluster, ray_job
from emoji_ldm.kubernetes.lint.rendering import name_of, overlays, render
from ray_jobs.execution.ray_runtime import SERVICE_SETTINGS
from ray_jobs.pipeline import STAGE_ORDER, stages_of
from tests.command_line import parse, plain_words
from tests.manifests.render import K8S, config_text

CONFIG_PATH = "/etc/emoji-ldm/emoji-ldm.yaml"
CPUS_PER_WORKER = 1  # an actor's half, and a quarter each for what reads for it and writes after it
OVERLAYS = overlays(K8S)
rendered = functools.cache(functools.partial(render, K8S))
WORKERS = {"crawl": ("num_browsers", "num_fetchers"), "generate": ("num_workers",)}


def jobs(overlay):
    """{name: spec} of every job, the nightly one too."""
    found = ((obj["metadata"]["name"], ray_job(obj)) for obj in rendered(overlay))
    return {name: part[1] for name, part in found if part}


def config_of(overlay, tmp_path, *overrides):
    path = tmp_path / "emoji-ldm.yaml"
    path.write_text(config_text(rendered(overlay)).replace("FILL-ME-IN", "s3://filled-in/store"))
    return load(str(path), list(overrides))


def command_of(job):
    program, *arguments = shlex.split(job["entrypoint"])
    assert program == "emoji-ldm"
    parsed = parse(arguments)
    assert parsed.params["config"] == CONFIG_PATH
    return parsed.info_name, *plain_words(parsed)


def stages_run(job):
    """The stages that a job's command runs, and its overrides."""
    command, words, overrides = command_of(job)
    if command == "pipeline":
        return stages_of(words), overrides
    return (("autoencoder",) if words == ["autoencoder"] else (command,)), overrides


def room(job):
    """(CPUs, GPUs) of the workers at most."""
    cpus = gpus = 0
    for group in job["rayClusterSpec"].get("workerGroupSpecs", []):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus += group["maxReplicas"] * int(limits["cpu"])
        gpus += group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0))
    return cpus, gpus


def needs(config, stage):
    """(CPUs, GPUs) of the workers that the config asks for."""
    if stage == "report":
        return 0, 0
    section = getattr(config, stage)
    workers = max(getattr(section, field) for field in WORKERS.get(stage, ("num_workers",)))
    return workers * CPUS_PER_WORKER, workers * getattr(section, "gpus_per_worker", 0)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_there_is_a_job_per_stage_a_pipeline_and_a_nightly_one_each_in_its_file(overlay):
    assert set(jobs(overlay)) == {*STAGE_ORDER, "pipeline", "refresh"}
    assert all((K8S / "base" / f"{name}.yaml").is_file() for name in [*jobs(overlay), "serve", "cluster"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_job_runs_the_stage_whose_name_it_bears(overlay, tmp_path):
    for name, job in jobs(overlay).items():
        stages, overrides = stages_run(job)
        config_of(overlay, tmp_path, *overrides)
        assert stages == {"pipeline": STAGE_ORDER, "refresh": ("crawl", "caption", "latents")}.get(name, (name,))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_config_is_valid_and_mounted_where_the_commands_read_it(overlay, tmp_path):
    assert config_of(overlay, tmp_path).store.startswith("s3://")
    for pod in pods(rendered(overlay)):
        if pod.role in ("head", "worker"):
            ray = pod.spec["containers"][0]
            mounts = {mount["name"]: mount["mountPath"] for mount in ray["volumeMounts"]}
            assert f"{mounts['config']}/emoji-ldm.yaml" == CONFIG_PATH


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_cluster_has_room_for_the_workers_that_its_stages_ask_for(overlay, tmp_path):
    """Workers that ask for more than a cluster may grow to would wait for ever."""
    for name, job in jobs(overlay).items():
        stages, overrides = stages_run(job)
        config, (cpus, gpus) = config_of(overlay, tmp_path, *overrides), room(job)
        for stage in stages:
            needed_cpus, needed_gpus = needs(config, stage)
            assert needed_cpus <= cpus or stage == "report", f"{name}: {stage} asks for more than {cpus} CPUs"
            assert needed_gpus <= gpus, f"{name}: {stage} asks for {needed_gpus} GPUs, its cluster has {gpus}"


def test_a_cluster_of_fixed_size_leaves_no_gpu_idle(tmp_path):
    for name, job in jobs("eks").items():
        if not job["rayClusterSpec"]["enableInTreeAutoscaling"]:
            stages, overrides = stages_run(job)
            asked = max(needs(config_of("eks", tmp_path, *overrides), stage)[1] for stage in stages)
            assert asked == room(job)[1], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_serve_accepts_the_application(overlay):
    service = next(obj for obj in rendered(overlay) if obj["kind"] == "RayService")
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = deploy.applications
    assert application.import_path == "ray_jobs.serve:build_app"
    overrides = {name: value for name, value in application.args.items() if name != "config"}
    assert application.args["config"] == CONFIG_PATH
    assert overrides == ({"serve.max_replicas_per_node": "1"} if overlay.startswith("kind") else {})
    assert load(None, [f"{name}={value}" for name, value in overrides.items()])
    assert application.route_prefix == "/"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_has_the_settings_that_the_command_gives_to_ray(overlay):
    service = next(obj for obj in rendered(overlay) if obj["kind"] == "RayService")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    container = next(one for one in group["template"]["spec"]["containers"] if one["name"] == "ray-worker")
    assert {one["name"]: one.get("value") for one in container["env"]}.items() >= SERVICE_SETTINGS.items()


def test_the_serve_app_can_be_imported():
    serve = pytest.importorskip("ray_jobs.serve")
    assert callable(serve.build_app)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_may_grow_to_what_its_config_asks_for(overlay, tmp_path):
    config = config_of(overlay, tmp_path)
    service = next(obj for obj in rendered(overlay) if name_of(obj) == "RayService/serve")
    (group,) = ray_cluster(service)["workerGroupSpecs"]
    assert group["maxReplicas"] >= config.serve.max_replicas * max(config.serve.gpus_per_worker, 0.5)
    assert group["minReplicas"] >= config.serve.min_replicas * max(config.serve.gpus_per_worker, 0.5)


def test_readme_names_the_stages_in_order():
    assert ", ".join(STAGE_ORDER) in " ".join((K8S / "README.md").read_text().split())
