"""What the manifests run exists: commands, options, config fields, the serve app, the server's flags."""

import shlex

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from emoji_ldm.config import Config, load
from ray_jobs.cli import parser
from tests.manifests.render import K8S, ROOTS, config_text, name_of, pods, ray_cluster, rendered

CONFIG_PATH = "/etc/emoji-ldm/emoji-ldm.yaml"
CPUS_PER_WORKER = 1  # an actor's half, and a quarter each for what reads for it and writes after it
STAGES = {"crawl", "caption", "autoencoder", "latents", "train", "generate", "report"}


def jobs(root):
    return [thing for thing in rendered(root) if thing["kind"] == "RayJob"]


def config_of(root, tmp_path):
    path = tmp_path / "emoji-ldm.yaml"
    path.write_text(config_text(rendered(root)))
    return load(str(path))


@pytest.mark.parametrize("root", ROOTS)
def test_there_is_one_job_per_stage_and_its_file_has_its_name(root):
    assert {job["metadata"]["name"] for job in jobs(root)} == STAGES
    assert all((K8S / "base" / f"{stage}.yaml").is_file() for stage in STAGES | {"serve"})


@pytest.mark.parametrize("root", ROOTS)
def test_every_entrypoint_is_a_command_that_exists(root):
    for job in jobs(root):
        program, *arguments = shlex.split(job["spec"]["entrypoint"])
        parsed = parser().parse_args(arguments)
        assert program == "emoji-ldm"
        assert parsed.config == CONFIG_PATH
        words = ["train", "autoencoder"] if job["metadata"]["name"] == "autoencoder" else [job["metadata"]["name"]]
        assert [parsed.command, *parsed.words] == words


@pytest.mark.parametrize("root", ROOTS)
def test_every_config_is_valid_and_lies_where_the_commands_look(root, tmp_path):
    config = config_of(root, tmp_path)
    assert config.store == "s3://emoji-ldm/store"
    for pod in pods(rendered(root)):
        if pod.role in ("head", "worker"):
            mounts = {mount["name"]: mount["mountPath"] for mount in pod.containers[0]["volumeMounts"]}
            assert f"{mounts['config']}/emoji-ldm.yaml" == CONFIG_PATH


@pytest.mark.parametrize("root", ROOTS)
def test_ray_serve_accepts_the_application(root):
    service = next(thing for thing in rendered(root) if thing["kind"] == "RayService")
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = deploy.applications
    assert application.import_path == "ray_jobs.serve:build_app"
    assert application.args == {"config": CONFIG_PATH}
    assert application.route_prefix == "/"


def test_the_serve_app_can_be_imported():
    serve = pytest.importorskip("ray_jobs.serve")
    assert callable(serve.build_app)


@pytest.mark.parametrize("root", ROOTS)
def test_every_job_fits_its_cluster(root, tmp_path):
    """Workers of a stage that ask for more GPUs than the group has would wait for ever."""
    config = config_of(root, tmp_path)
    for job in jobs(root):
        stage = job["metadata"]["name"]
        section = getattr(config, stage, None)
        group = ray_cluster(job)["workerGroupSpecs"][0]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus = group["replicas"] * int(limits.get("nvidia.com/gpu", 0))
        workers, cpus = getattr(section, "num_workers", 1), group["replicas"] * int(limits["cpu"])
        assert stage == "report" or workers * CPUS_PER_WORKER <= cpus, f"{stage} asks for more than {cpus} CPUs"
        needed = getattr(section, "num_workers", 0) * getattr(section, "num_gpus", 0)
        assert needed <= gpus, f"{stage} asks for {needed} GPUs, its cluster has {gpus}"
        if root == "base":
            assert needed == gpus, f"{stage} leaves {gpus - needed} GPUs idle"
            assert not gpus or "-gpu:" in group["template"]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("root", ROOTS)
def test_the_service_may_grow_to_what_its_config_asks_for(root, tmp_path):
    config = config_of(root, tmp_path)
    service = next(thing for thing in rendered(root) if name_of(thing) == "RayService/serve")
    group = ray_cluster(service)["workerGroupSpecs"][0]
    assert group["maxReplicas"] >= config.serve.max_replicas * max(config.serve.num_gpus, 0.5)


def test_readme_names_real_objects_and_commands():
    text = (K8S / "README.md").read_text()
    for line in text.splitlines():
        if line.startswith("emoji-ldm "):
            parser().parse_args(shlex.split(line)[1:])
    order = "crawl, caption, autoencoder, latents, train, generate, report"
    assert order in text
    assert set(order.split(", ")) == STAGES
    assert set(Config.model_fields) >= STAGES - {"report"}
