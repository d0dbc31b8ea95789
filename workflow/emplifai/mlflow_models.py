"""Adapters as MLflow's LoggedModels, tied to the data and metrics of their training, and versions of registered models."""

from contextlib import suppress

from emplifai.journal import Job, Pipeline
from emplifai.mlflow_connection import KEY, Connection

SETTINGS = ("model.model", "model.revision", "finetune.", "rank", "alpha")  # parameters that belong to a model


def log_model(connection: Connection, run_id: str, job: Job) -> None:
    """The adapter with its base, the digests of data and weights, its card, and the dev metrics of the run."""
    from mlflow.entities import LoggedModelOutput

    client = connection.client
    model = _logged(connection, job) or _create(connection, run_id, job)
    if model.status == "READY":
        return
    with connection.folder(job.adapter) as folder:
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    dev = next((d for d in job.data if d["name"] == "dev"), {"name": None, "digest": None})
    for name, value, step, at in job.metrics:
        if name.startswith("dev_"):
            client.log_metric(run_id, name, value, at, step, True, dev["name"], dev["digest"], model.model_id)


def _logged(connection: Connection, job: Job):
    found = connection.client.search_logged_models([connection.experiment], f"tags.`{KEY}` = '{job.key}'")
    return found[0] if found else None


def _create(connection: Connection, run_id: str, job: Job):
    tags = {
        KEY: job.key,
        "adapter_sha256": dict(job.adapter).get("adapter_model.safetensors", "none"),
        "train_sha256": next((d["digest"] for d in job.data if d["name"] == "train"), ""),
    }
    settings = {name: value for name, value in job.params.items() if name.startswith(SETTINGS)}
    return connection.client.create_logged_model(connection.experiment, job.name, run_id, tags, settings, "lora-adapter")


def register(connection: Connection, pipeline: Pipeline) -> list[str]:
    """Make every adapter of a pipeline a version of the registered model EXPERIMENT-MODEL; return the new ones."""
    from mlflow.exceptions import MlflowException

    client, made = connection.client, []
    experiment = client.get_experiment(connection.experiment).name
    for job in (job for job in pipeline.jobs if job.adapter):
        model, name = _logged(connection, job), f"{experiment}-{job.name}"
        with suppress(MlflowException):  # it is there
            client.create_registered_model(name)
        if not any(v.tags.get(KEY) == job.key for v in client.search_model_versions(f"name = '{name}'")):
            source, tags = f"models:/{model.model_id}", {KEY: job.key}
            version = client.create_model_version(name, source, model.source_run_id, tags, model_id=model.model_id)
            made.append(f"{name} version {version.version}")
    return made
