"""The command line: one subcommand a stage, and a few that look after the results."""

import argparse
import gc
import importlib
import os
import shutil
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

from emplifai import STAGES, __version__
from emplifai.errors import UserError
from emplifai.paths import Paths

HELP = {
    "validate": "check dialogues and write the good ones and the rejects",
    "split": "split the dialogues into train, dev and test by situation",
    "finetune": "train a LoRA adapter on the train dialogues",
    "generate": "let a model answer the test dialogues",
    "bertscore": "score all answers against the reference",
    "judge": "let a judge rate all replies",
    "correlate": "compare judges and BERTScore with human ratings",
    "report": "write the page that shows it all",
    "ratings": "ratings by people: draw a study, serve its page, import, simulate, plan",
    "prefetch": "fetch and prepare the models that params.yaml names",
    "sync": "after git checkout or dvc pull: make Snakemake believe what DVC has proved",
    "status": "what is done, what runs, what failed and why, and what a run would do",
    "track": "send all results to MLflow (idempotent)",
    "ui": "show all runs in MLflow's pages (for a tracking server: say where they are)",
    "finish": "say where the report is and what to type next",
}
EACH = {"finetune": "model", "generate": "model", "judge": "judge"}  # stages with one job a model or judge


EXAMPLES = {
    "validate": ["--data my.csv --out checked/      # any file, in any folder, without params.yaml"],
    "finetune": ["--model tuned"],
    "generate": ["--model base", "--model base --shard 2/4       # a share of the work, into the cache"],
    "judge": ["--judge proxy", "--judge llm --dry-run          # what it would ask and cost", "audit --judge llm"],
    "correlate": ["--ratings R.csv --judgements J.csv --out out/"],
    "ratings": ["new --raters 3 --items 40", "serve", "import data/ratings/study-01"],
    "track": ["", "--register", "--watch                         # what runs now, in MLflow"],
}


def _shape(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=min(110, shutil.get_terminal_size().columns))


def _listed() -> str:
    """What `emplifai --help` says: the stages in their order, then the rest."""

    def rows(names) -> str:
        return "".join(f"  {name:<10} {HELP[name]}\n" for name in names)

    return (
        "LLM replies to patients, scored by BERTScore, LLM judges and people.\n\n"
        f"stages, in the order in which they run:\n{rows(STAGES)}\n"
        f"and beside them:\n{rows(name for name in HELP if name not in STAGES)}\n"
        "Settings come from params.yaml, results go to results/STAGE/. To run all stages: snakemake --cores 2 all.\n"
        "One stage's own help: emplifai STAGE --help"
    )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("emplifai", description=_listed(), formatter_class=_shape)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for name, text in HELP.items():
        shown = "\n".join(f"  emplifai {name} {example}".rstrip() for example in EXAMPLES.get(name, []))
        command = commands.add_parser(
            name,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=shown and f"examples:\n{shown}",
            formatter_class=_shape,
        )
        command.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: %(default)s")
        if name in STAGES:
            _stage(command, name)
    importlib.import_module("emplifai.study.command").arguments(commands.choices["ratings"])
    commands.choices["judge"].add_argument(
        "action", nargs="?", choices=["audit"], help="audit: try the judge on probes of which the right order is known"
    )
    commands.choices["judge"].add_argument(
        "--dry-run", action="store_true", help="say how many questions, tokens and dollars it would take; send nothing"
    )
    for name in ("generate", "bertscore", "judge"):
        commands.choices[name].add_argument("--shard", metavar="K/N", help="compute this share into the cache, write no results")
    commands.choices["track"].add_argument(
        "--register", action="store_true", help="also make the adapters versions of registered models"
    )
    commands.choices["track"].add_argument(
        "--watch", action="store_true", help="show what runs now, with its losses, until Ctrl-C; send no results"
    )
    commands.choices["validate"].add_argument(
        "--data", type=Path, metavar="PATH", help="a folder or file of dialogues, instead of data.path; wants --out"
    )
    _own_tables(commands.choices["correlate"])
    return top


def _own_tables(command: argparse.ArgumentParser) -> None:
    own = command.add_argument_group("your own tables, without params.yaml or any results")
    own.add_argument("--ratings", type=Path, metavar="CSV", help="rater_id, dialogue_id, model, criterion, score")
    own.add_argument("--judgements", type=Path, metavar="CSV", help="judge, dialogue_id, model, criterion, score")
    own.add_argument("--scale", type=float, nargs=2, default=(1, 5), metavar=("LOW", "HIGH"), help="default: 1 5")
    own.add_argument("--cluster", default="", metavar="COLUMN", help="default: situation_id, else dialogue_id")
    own.add_argument("--by", nargs="+", default=[], metavar="COLUMN", help="agreement by the groups of this column too")
    own.add_argument("--epsilon", type=float, default=0.2, help="of the alternative annotator test; default: %(default)s")
    own.add_argument("--resamples", type=int, default=2000, help="of whole clusters; default: %(default)s")
    own.add_argument("--seed", type=int, default=42, help="default: %(default)s")


def _stage(command: argparse.ArgumentParser, stage: str) -> None:
    command.add_argument("--out", type=Path, metavar="DIR", help=f"default: results/{stage}")
    for earlier in STAGES[: STAGES.index(stage)]:
        command.add_argument(
            f"--{earlier}-dir", type=Path, metavar="DIR", help=f"what {earlier} wrote; default: results/{earlier}"
        )
    if name := EACH.get(stage):
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument(f"--{name}", metavar="NAME", help=f"a {name} of the params")
        which.add_argument(
            "--gather", action="store_true", help=f"put the metrics of all {name}s together, remove those of others"
        )


def command() -> int:
    """What the shell calls: `main` in a process of its own, which need not look for garbage among what was imported.

    Importing torch and transformers makes a million objects that stay; the collector's look at them, again and again while
    they come and once more at the end, took 1.2 of 4.1 seconds.
    """
    gc.set_threshold(100_000, 50, 50)
    try:
        return main()
    finally:
        gc.freeze()


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status: 0 well, 2 something the user can mend, 130 Ctrl-C, 1 our fault."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _run(args)
    except UserError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print("\nThis is a fault of emplifai; please report the lines above.", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    from emplifai import locks, shards
    from emplifai import params as schema

    if args.command == "ratings":
        importlib.import_module("emplifai.study.command").run(args)
        return
    if args.command == "correlate" and (args.ratings or args.judgements):
        importlib.import_module("emplifai.own_tables").from_tables(args)
        return
    alone = getattr(args, "data", None) and args.params == Path("params.yaml") and not args.params.exists()
    params = schema.defaults() if alone else schema.load(args.params)
    if args.command not in STAGES:
        more = {flag: True for flag in ("register", "watch") if getattr(args, flag, False)}
        importlib.import_module(f"emplifai.{args.command}").run(params, Paths(), **more)
        return
    _check_folders(args)
    folders = {s: getattr(args, f"{s}_dir") for s in STAGES if getattr(args, f"{s}_dir", None)}
    if args.out:
        folders[args.command] = args.out
    if getattr(args, "data", None):
        params = params.model_copy(update={"data": params.data.model_copy(update={"path": args.data})})
    module = importlib.import_module(f"emplifai.{args.command}")
    paths = Paths(folders=folders)
    if getattr(args, "gather", False):
        importlib.import_module("emplifai.gather").run(params, paths, args.command)
    elif getattr(args, "dry_run", False):
        module.dry_run(params, paths, _known(params, args, EACH[args.command]))
    else:
        name = [_known(params, args, EACH[args.command])] if args.command in EACH else []
        act = getattr(module, getattr(args, "action", None) or "run")
        part = {"shard": shards.shard(args.shard)} if getattr(args, "shard", None) else {}
        own = ".".join(filter(None, (*name, str(part.get("shard", "")))))
        with locks.alone(paths, args.command, own) if args.command in locks.DEAR else nullcontext():
            act(params, paths, *name, **part)


def _check_folders(args: argparse.Namespace) -> None:
    """A stage that reads given files writes where it is told: results/STAGE belongs to params.yaml."""
    given = [f"--{s}-dir" for s in STAGES if getattr(args, f"{s}_dir", None)] + ["--data"] * bool(getattr(args, "data", None))
    if given and not args.out and not getattr(args, "dry_run", False):
        raise UserError(f"{given[0]} wants --out DIR too: results/{args.command} belongs to params.yaml and the stages before")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: a file; a folder is wanted")


def _known(params, args: argparse.Namespace, kind: str) -> str:
    name = getattr(args, kind)
    names = list(getattr(params, f"{kind}s")) if args.command != "finetune" else params.tuned
    if name not in names:
        raise UserError(f"{args.params}: no {kind} {name!r} for {args.command}; there are: {', '.join(names) or 'none'}")
    return name


def _explain(error: OSError) -> str:
    import errno

    where = error.filename or ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}: no space left; free some or put results elsewhere, then give the same command again: it goes on from here"
        )
    return f"{where}: {os.strerror(error.errno) if error.errno else error}"


if __name__ == "__main__":
    sys.exit(command())
