"""`emplifai ratings ...`: draw a rating study, serve it, bring ratings in, simulate them, plan how many are needed."""

import argparse
import sys
from pathlib import Path

PORT = 8765


def arguments(command: argparse.ArgumentParser) -> None:
    """Add the subcommands to `emplifai ratings`."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _new(actions)
    _serve(actions)
    link = _action(actions, "link", "print a new link for a rater; the old one ends")
    revoke = _action(actions, "revoke", "end a rater's link and sessions at once; the ratings stay")
    for action in (link, revoke):
        action.add_argument("project", type=Path, metavar="DIR")
        action.add_argument("rater", metavar="RATER", help="as printed by `new`, for example r01")
    _import(actions)
    simulate = _action(actions, "simulate", "write simulated raters, marked as such in every row")
    simulate.add_argument("--seed", type=int, default=None, help="default: correlate.seed of the params")
    simulate.add_argument("--to", type=Path, metavar="CSV", help="default: simulated.csv in data.ratings")
    _power(actions)


def _action(actions, name: str, text: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    action.add_argument("--params", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="default: params.yaml")
    return action


def _new(actions) -> None:
    new = _action(actions, "new", "draw a blind rating project and print each rater's link, once")
    new.add_argument("--raters", type=int, required=True, metavar="R")
    new.add_argument("--items", type=int, required=True, metavar="N", help="replies, balanced over emotions and models")
    new.add_argument("--per-item", type=int, metavar="K", help="raters of each reply; default: all")
    new.add_argument("--repeat", type=float, default=0.1, metavar="SHARE", help="shown twice to a rater; default: %(default)s")
    new.add_argument("--models", type=lambda t: t.split(","), metavar="A,B,...", help="default: all of the params")
    new.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    new.add_argument("--out", type=Path, metavar="DIR", help="default: study-01 (02, ...) in data.ratings")


def _serve(actions) -> None:
    serve = _action(actions, "serve", "serve a rating project")
    serve.add_argument("project", type=Path, nargs="?", metavar="DIR", help="default: the newest in data.ratings")
    serve.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine only")
    serve.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    serve.add_argument("--tls-cert", type=Path, metavar="PEM")
    serve.add_argument("--tls-key", type=Path, metavar="PEM")
    serve.add_argument("--behind-proxy", action="store_true", help="a proxy on this machine does TLS; see docs/ratings.md")


def _import(actions) -> None:
    source = _action(actions, "import", "bring ratings into data/ratings: a project's, or a CSV, Label Studio or Potato export")
    source.add_argument(
        "source", type=Path, metavar="SOURCE", help="a project; .csv; Label Studio's .json; Potato's folder or .csv"
    )
    source.add_argument("--to", type=Path, metavar="CSV", help="default: NAME.csv in data.ratings, after the source")
    source.add_argument("--key", type=Path, metavar="CSV", help="item_id, dialogue_id, model: for exports with ids of their own")


def _power(actions) -> None:
    power = _action(actions, "power", "what intervals a design can reach, by simulation")
    power.add_argument("--items", type=int, nargs="+", default=[20, 40, 80, 160], metavar="N", help="default: 20 40 80 160")
    power.add_argument("--raters", type=int, nargs="+", default=[3, 5], metavar="K", help="of each reply; default: 3 5")
    power.add_argument("--agreement", type=float, default=0.5, help="expected ordinal alpha of raters; default: %(default)s")
    power.add_argument(
        "--correlation",
        type=float,
        default=0.6,
        help="expected, of the judge with what raters would agree on; default: %(default)s",
    )
    power.add_argument("--studies", type=int, default=2000, help="simulated for each design; default: %(default)s")
    power.add_argument("--seed", type=int, default=42, help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    actions = {"new": new, "serve": serve, "link": link, "revoke": link, "import": import_, "simulate": simulate, "power": power}
    actions[args.action](args)


def new(args: argparse.Namespace) -> None:
    from emplifai import params as schema
    from emplifai.paths import Paths
    from emplifai.study import project

    params = schema.load(args.params)
    folder = args.out or project.free_name(params.data.ratings)
    plan = project.Plan(args.raters, args.items, args.per_item, args.repeat, args.seed, args.models)
    tokens = project.create(folder, params, Paths(), plan)
    print(f"{folder}: drawn. Each rater's link, shown only now; after the host that raters reach:", file=sys.stderr)
    for rater, token in tokens.items():
        print(f"{rater}\t/enter#{token}")
    print(f"Read and edit {folder}/instructions.yaml (consent), then: emplifai ratings serve {folder}", file=sys.stderr)


def serve(args: argparse.Namespace) -> None:
    from emplifai.study import project, serving

    folder = args.project or project.newest(_ratings_folder(args.params))
    serving.serve(folder, args.host, args.port, args.tls_cert, args.tls_key, args.behind_proxy)


def _ratings_folder(file: Path) -> Path:
    from emplifai import params as schema

    return schema.load(file).data.ratings


def link(args: argparse.Namespace) -> None:
    import secrets

    from emplifai.errors import UserError
    from emplifai.study import project
    from emplifai.study.store import Store

    study = project.load(args.project)
    token = secrets.token_urlsafe(24) if args.action == "link" else None
    with Store(study.database) as store:
        if not store.relink(args.rater, project.token_sha256(token) if token else None):
            raise UserError(f"{args.project}: no rater {args.rater!r}; there are: {', '.join(study.orders)}")
    print(f"{args.rater}\t/enter#{token}" if token else f"{args.rater}: the link and all sessions have ended")


def import_(args: argparse.Namespace) -> None:
    from emplifai import params as schema
    from emplifai.paths import Paths
    from emplifai.study import importing

    importing.run(schema.load(args.params), Paths(), args.source, args.to, args.key)


def simulate(args: argparse.Namespace) -> None:
    from emplifai import params as schema
    from emplifai.paths import Paths
    from emplifai.study import importing

    importing.simulate(schema.load(args.params), Paths(), args.seed, args.to)


def power(args: argparse.Namespace) -> None:
    from emplifai.study import power

    print(power.table(args.items, args.raters, args.agreement, args.correlation, args.studies, args.seed))
