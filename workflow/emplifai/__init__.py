"""EmplifAI as a workflow: LLM replies to patients, scored by BERTScore, LLM judges and people."""

__version__ = "0.1.0"

#: The one name of each stage: Snakemake rule, DVC stage, params section, module, results folder.
STAGES = ("validate", "split", "finetune", "generate", "bertscore", "judge", "correlate", "report")
