"""The commands. Nothing heavy is imported before a command needs it; bad input is one line and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from deploy.runtimes.runner import out_of_memory
from edgemt.commands import (
    bench,
    calibrate,
    check,
    compare,
    convert,
    data,
    dossier,
    event_log,
    export,
    install,
    listing,
    package,
    pacs,
    pipeline,
    select,
    serve_labels,
    signing,
    site,
    stream,
)
from edgemt.commands.console import command_name, log, without_extra_args
from edgemt.errors import unknown_name_message
from edgemt.io.atomic import no_space

COMMANDS: dict[type, Callable[[Any, list[str]], None]] = {
    pipeline.Run: pipeline.stages,
    pipeline.Train: pipeline.stages,
    pipeline.Distil: pipeline.stages,
    pipeline.Prune: pipeline.stages,
    pipeline.Quantize: pipeline.stages,
    export.Export: export.export,
    bench.Bench: bench.bench,
    compare.Compare: compare.compare,
    check.Check: without_extra_args(check.check),
    convert.Import: without_extra_args(convert.import_data),
    convert.ExportLabels: without_extra_args(convert.export_label_files),
    package.Eval: without_extra_args(package.evaluate),
    package.Predict: without_extra_args(package.predict),
    calibrate.Calibrate: without_extra_args(calibrate.fit),
    package.Build: without_extra_args(package.build),
    signing.Keygen: without_extra_args(signing.make_key),
    signing.Sign: without_extra_args(signing.sign_ship),
    install.Install: without_extra_args(install.install_ship),
    data.Data: without_extra_args(data.report),
    select.Select: without_extra_args(select.select_images),
    serve_labels.ServeLabels: without_extra_args(serve_labels.serve_labels),
    listing.Pack: without_extra_args(listing.pack_stage),
    listing.List: without_extra_args(listing.list_names),
    listing.Explain: without_extra_args(listing.explain_method),
    package.Doctor: without_extra_args(package.doctor),
    stream.Stream: without_extra_args(stream.stream),
    pacs.Pacs: without_extra_args(pacs.serve_pacs),
    event_log.Log: without_extra_args(event_log.check_log),
    site.Site: without_extra_args(site.site),
    dossier.Dossier: without_extra_args(dossier.dossier),
}
NAMES = {command_name(kind): kind for kind in COMMANDS}
TAKES_FIELDS = (
    pipeline.RecipeCommand,
    bench.Bench,
    compare.Compare,
)  # after a recipe's name, every field of it is a flag
_REASONS = {  # of an OSError, in plain terms
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder, not a file",
    errno.EEXIST: "a file is in the way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a circle of symbolic links",
    errno.EMFILE: "too many open files; raise ulimit -n",
    errno.ENOMEM: "out of memory",
}
Command: Any = Union[tuple(Annotated[kind, subcommand(name)] for name, kind in NAMES.items())]  # noqa: UP007


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status: 0 done, 2 what the user can mend, 3 a latency budget not kept, 130 Ctrl-C, 1 our own failure."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(args)
    except KeyboardInterrupt:
        log("interrupted; everything up to the last checkpoint is kept, the same command resumes")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ValueError as error:
        if os.environ.get("EDGEMT_TRACEBACK"):
            raise
        log(f"error: {' '.join(str(error).split())}")
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or os.environ.get("EDGEMT_TRACEBACK"):
            raise
        why = " ".join(str(error).split())[:120] or "an array could not be allocated"
        log(f"error: out of memory ({why}); close other programs, raise ulimit -v, or use smaller data")
        raise SystemExit(2) from None
    except OSError as error:
        reason = "no space left on the disk" if no_space(error) else _REASONS.get(error.errno or 0)
        if reason is None or os.environ.get("EDGEMT_TRACEBACK"):
            raise
        log(f"error: {error.filename or 'writing'}: {reason}; mend it and run the same command again")
        raise SystemExit(2) from None


def _dispatch(args: list[str]) -> None:
    if args == ["--version"]:
        from edgemt import __version__

        print(f"edgemt {__version__}")
        return
    if args and not args[0].startswith("-") and args[0] not in NAMES:
        raise ValueError(unknown_name_message("command", args[0], list(NAMES)))
    takes_fields = bool(args) and args[0] in NAMES and issubclass(NAMES[args[0]], TAKES_FIELDS)
    wants_fields = takes_fields and len(args) > 1 and not args[1].startswith("-") and {"-h", "--help"} & set(args)
    outer = [a for a in args if a not in ("-h", "--help")] if wants_fields else args
    command, rest = tyro.cli(Command, args=outer, prog="edgemt", description=_about(), return_unknown_args=True)  # type: ignore[call-overload]
    COMMANDS[type(command)](command, [*rest, *(["--help"] if wants_fields else [])])


def _about() -> str:
    return (
        "From a few labelled and many unlabelled medical images to a segmentation model that runs in real time. "
        "Start with: edgemt run phantom"
    )


if __name__ == "__main__":
    main()
