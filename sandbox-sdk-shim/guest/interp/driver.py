"""The Python side of the code interpreter: cells in, output and results out.

Started by the guest server as `python3 - caisson-interpreter` with this text on descriptor 0 and a socket on
descriptor 3. A line of JSON comes in for each cell, {"run": n, "code": text}. Out go lines too: once
`H {"version": ...}`, then for each cell any number of `R n {format: value, ...}`, each of which {"ack": true} answers,
and one `D n` or `E n {"ename", "evalue", "traceback"}`.
What a cell prints goes to descriptors 1 and 2 and is no part of this. SIGINT interrupts a cell.
"""


def _main():
    import ast
    import base64
    import builtins
    import fcntl
    import importlib.abc
    import io
    import json
    import linecache
    import os
    import re
    import shlex
    import signal
    import socket
    import subprocess
    import sys
    import threading
    import time
    import traceback
    import types

    result_max = 12 << 20  # characters of one result, all its formats together
    text_max = 1 << 20  # characters of a result's text
    flush_after = 0.02  # seconds that the start of a line may wait for more

    # ---- descriptors ----

    def away(fd):
        """A copy out of the way of cells that number or close descriptors, and not for their children."""
        for least in (990, 200, 10):
            try:
                return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
            except OSError:
                pass
        raise OSError("no descriptor is free")

    channel = socket.socket(fileno=away(3))
    os.close(3)
    kept = {fd: away(fd) for fd in (1, 2)}
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    pid = os.getpid()

    class Output(io.TextIOWrapper):
        """Lines leave at once: what a child prints comes after, and a crash loses none. The rest of a line leaves a moment later."""

        def __init__(self, fd):
            super().__init__(
                io.BufferedWriter(io.FileIO(fd, "w", closefd=False), 65536),
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=True,
            )
            self.dirty = False

        def write(self, text):
            n = super().write(text)
            if text[-1:] != "\n":
                if os.getpid() != pid:
                    self.push()
                elif not self.dirty:
                    self.dirty = True
                    pending.set()
            return n

        def push(self):
            self.dirty = False
            try:
                self.flush()
            except (OSError, ValueError):
                pass

    pending = threading.Event()
    out, err = Output(1), Output(2)
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err

    def push_all():
        for stream in {sys.stdout, sys.stderr}:
            try:
                stream.flush()
            except Exception:
                pass
        out.push()
        err.push()

    def flusher():
        while True:
            pending.wait()
            pending.clear()
            time.sleep(flush_after)
            for stream in (out, err):
                if stream.dirty:
                    stream.push()

    threading.Thread(target=flusher, daemon=True).start()
    # A child of fork() must not print again what waits here.
    os.register_at_fork(before=push_all)

    # ---- messages ----

    state = {"run": 0, "running": False, "sending": False, "late": False, "interrupted": False, "settling": False}
    sending = threading.Lock()
    main_thread = threading.get_ident()

    def send(kind, run=None, body=None):
        parts = [kind]
        if run is not None:
            parts.append(str(run))
        if body is not None:
            parts.append(json.dumps(body, ensure_ascii=False, allow_nan=False))
        # A lone surrogate is no character and cannot travel.
        data = " ".join(parts).encode("utf-8", "replace") + b"\n"
        if os.getpid() != pid:
            return
        # An interrupt in the middle would leave half a line.
        mine = threading.get_ident() == main_thread
        if mine:
            state["sending"] = True
        try:
            with sending:
                channel.sendall(data)
            # What is printed next must not overtake a result.
            while mine and kind == "R" and "ack" not in receive():
                pass
        finally:
            if mine:
                state["sending"] = False
        if mine and state["late"]:
            state["late"] = False
            if state["running"]:
                state["interrupted"] = True
                raise KeyboardInterrupt

    held = b""

    def receive():
        """The next message; the process ends with the channel."""
        nonlocal held
        while b"\n" not in held:
            data = channel.recv(1 << 20)
            if not data:
                os._exit(0)
            held += data
        line, held = held.split(b"\n", 1)
        return json.loads(line)

    # ---- results ----

    formats = {
        "text/html": "html",
        "text/markdown": "markdown",
        "image/svg+xml": "svg",
        "image/png": "png",
        "image/jpeg": "jpeg",
        "text/latex": "latex",
        "application/json": "json",
        "application/javascript": "javascript",
        "text/plain": "text",
    }
    methods = {
        "_repr_html_": "html",
        "_repr_markdown_": "markdown",
        "_repr_svg_": "svg",
        "_repr_png_": "png",
        "_repr_jpeg_": "jpeg",
        "_repr_latex_": "latex",
        "_repr_json_": "json",
        "_repr_javascript_": "javascript",
    }

    def plain(value):
        """The value as JSON, or TypeError, ValueError or RecursionError."""
        text = json.dumps(value, allow_nan=False)
        if len(text) > result_max:
            raise ValueError
        return json.loads(text)

    def put(data, name, value):
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
            value = value[0]  # with metadata
        if value is None:
            return
        if name == "json":
            try:
                data[name] = plain(json.loads(value) if isinstance(value, str) else value)
            except (TypeError, ValueError, RecursionError):
                pass
        elif isinstance(value, (bytes, bytearray)):
            data[name] = base64.b64encode(value).decode()
        elif isinstance(value, str):
            data[name] = value.replace("\n", "") if name in ("png", "jpeg") else value

    def describe(value):
        data = {}
        kind = type(value)
        bundle = getattr(kind, "_repr_mimebundle_", None)
        if bundle is not None:
            try:
                got = bundle(value, include=None, exclude=None)
                got = got[0] if isinstance(got, tuple) else got
                for mime, content in (got or {}).items():
                    if mime in formats:
                        put(data, formats[mime], content)
            except Exception:
                pass
        for method, name in methods.items():
            function = getattr(kind, method, None)
            if function is None or name in data:
                continue
            try:
                put(data, name, function(value))
            except Exception:
                pass
        if "json" not in data and kind in (dict, list):
            put(data, "json", value)
        if "text" not in data:
            try:
                data["text"] = repr(value)
            except Exception as error:
                data["text"] = f"<{kind.__name__}: repr() raised {type(error).__name__}>"
        return data

    def bounded(data):
        text = data.get("text")
        if isinstance(text, str) and len(text) > text_max:
            data["text"] = text[:text_max] + f"\n... ({len(text) - text_max} more characters)"
        for name in sorted(data, key=lambda n: len(str(data[n])), reverse=True):
            if sum(len(str(v)) for v in data.values()) <= result_max:
                break
            size = len(str(data.pop(name)))
            data.setdefault("text", f"<{name} of {size} characters: more than a result may have>")
        return data

    def show(data):
        push_all()
        send("R", state["run"], bounded(data))

    def display(*values, raw=False, **_):
        """Shows values as results of the cell, in the richest form that they know."""
        for value in values:
            if raw and isinstance(value, dict):
                data = {}
                for mime, content in value.items():
                    if mime in formats:
                        put(data, formats[mime], content)
                show(data)
            else:
                show(describe(value))

    # ---- matplotlib: figures are results ----

    def show_figures():
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            image = io.BytesIO()
            try:
                figure.savefig(image, format="png", bbox_inches="tight")
            finally:
                pyplot.close(figure)
            show({"png": base64.b64encode(image.getvalue()).decode(), "text": repr(figure)})

    class PyplotHook(importlib.abc.MetaPathFinder):
        """Makes pyplot.show() a result at once; without it figures come at the end of the cell."""

        def find_spec(self, name, path, target=None):
            if name != "matplotlib.pyplot":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(module):
                    run(module)
                    module.show = lambda *args, **kwargs: show_figures()

                spec.loader.exec_module = exec_module
            return spec

    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.meta_path.insert(0, PyplotHook())

    # ---- the cells' world ----

    main = types.ModuleType("__main__")
    main.__dict__.update({"__builtins__": builtins, "display": display, "In": [""], "Out": {}})
    world = main.__dict__
    sys.modules["__main__"] = main
    sys.argv = [""]
    for name in ("_", "__", "___"):
        world[name] = ""

    # ---- what IPython's users write: !command, %magic, %%magic ----

    def shell(command):
        push_all()
        code = subprocess.run(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL).returncode
        world["_exit_code"] = code

    def capture(command):
        push_all()
        done = subprocess.run(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        world["_exit_code"] = done.returncode
        return done.stdout.decode("utf-8", "replace").splitlines()

    class UsageError(Exception):
        __module__ = "builtins"
        __qualname__ = "UsageError"

    def magic(text):
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name == "cd":
            os.chdir(os.path.expanduser(rest or "~"))
            return os.getcwd()
        if name == "pwd":
            return os.getcwd()
        if name in ("env", "set_env"):
            if not rest:
                return dict(os.environ)
            key, equals, value = rest.partition("=") if "=" in rest else rest.partition(" ")
            if not equals:
                return os.environ.get(key)
            os.environ[key.strip()] = value.strip()
            return None
        if name in ("pip", "pip3"):
            return shell(shlex.join([sys.executable, "-m", "pip"]) + " " + rest)
        if name in ("sx", "system"):
            return capture(rest)
        if name in ("ls", "cat", "mkdir", "rm", "cp", "mv"):
            return shell(text)
        if name in ("matplotlib", "config", "load_ext", "autoreload", "reload_ext"):
            return None
        if name == "time":
            begun = time.perf_counter()
            value = run_code(rest)
            print(f"Wall time: {(time.perf_counter() - begun) * 1000:.3g} ms")
            return value
        if name == "who":
            return [n for n in world if not n.startswith("_") and n not in ("In", "Out", "display")]
        raise UsageError(f"Line magic function `%{name}` not found.")

    def cell_magic(code):
        head, _, body = code[2:].partition("\n")
        name, _, rest = head.partition(" ")
        if name in ("bash", "sh", "script", "!"):
            return shell(body)
        if name in ("writefile", "file"):
            append = rest.startswith("-a ")
            path = os.path.expanduser((rest[3:] if append else rest).strip().strip("'\""))
            with open(path, "a" if append else "w", encoding="utf-8") as file:
                file.write(body)
            print(f"{'Appending to' if append else 'Writing'} {path}")
            return None
        if name == "time":
            begun = time.perf_counter()
            value = run_code(body)
            print(f"Wall time: {(time.perf_counter() - begun) * 1000:.3g} ms")
            return value
        if name == "capture":
            return run_code(body)
        raise UsageError(f"Cell magic `%%{name}` not found.")

    world["__caisson__"] = types.SimpleNamespace(shell=shell, capture=capture, magic=magic)
    line_forms = (
        (re.compile(r"^(\s*)!(?!=)(.*)$"), "shell"),
        (re.compile(r"^(\s*)%(?![%=\s])(.*)$"), "magic"),
        (re.compile(r"^(\s*[A-Za-z_][\w, ]*=\s*)!(?!=)(.*)$"), "capture"),
        (re.compile(r"^(\s*[A-Za-z_][\w, ]*=\s*)%(?![%=\s])(.*)$"), "magic"),
    )

    def plain_python(code):
        """The cell with the lines that only IPython knows made calls."""
        lines_in = code.split("\n")
        for i, line in enumerate(lines_in):
            for form, function in line_forms:
                found = form.match(line)
                if found:
                    lines_in[i] = f"{found[1]}__caisson__.{function}({found[2].strip()!r})"
                    break
        return "\n".join(lines_in)

    # ---- running ----

    loop = None

    def settle(awaitable):
        """Runs the cell's coroutine; an interrupt cancels it and leaves the loop usable."""
        nonlocal loop
        import asyncio

        if loop is None or loop.is_closed():
            loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        task = loop.create_task(awaitable)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            if not task.done():
                task.cancel()
                state["settling"] = True
                try:
                    loop.run_until_complete(task)
                except asyncio.CancelledError:
                    pass
                finally:
                    state["settling"] = False
            raise

    def evaluate(code):
        if code.co_flags & 0x80:  # CO_COROUTINE
            return settle(eval(code, world))
        return eval(code, world)

    count = 0

    def run_code(source):
        """Runs one piece of source; the value of its last expression, or None."""
        nonlocal count
        count += 1
        name = f"<cell {count}>"
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

        def parse():
            return compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)

        try:
            tree = parse()
        except SyntaxError:
            changed = plain_python(source)
            if changed == source:
                raise
            source, tree = changed, None
        if tree is None:
            tree = parse()
        linecache.cache[name] = (len(source), None, [line + "\n" for line in source.split("\n")], name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            # A final semicolon hides the value, as in a notebook.
            if not re.search(r";\s*(#.*)?$", source.rstrip()):
                last = ast.Expression(tree.body.pop().value)
        if tree.body:
            evaluate(compile(tree, name, "exec", flags, dont_inherit=True))
        if last is None:
            return None
        return evaluate(compile(last, name, "eval", flags, dont_inherit=True))

    def trim(report):
        """Takes this program's own frames out of a TracebackException and what it is chained to."""
        own_name = _main.__code__.co_filename
        seen = set()
        todo = [report]
        while todo:
            part = todo.pop()
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            cells = [i for i, frame in enumerate(part.stack) if frame.filename.startswith("<cell ")]
            own = [i for i, frame in enumerate(part.stack) if frame.filename == own_name]
            first = cells[0] if cells else own[-1] + 1 if own else 0
            part.stack[:] = [frame for frame in part.stack[first:] if frame.filename != own_name]
            todo += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or [])]

    def failure(error):
        try:
            report = traceback.TracebackException.from_exception(error, limit=-100)
            trim(report)
            text = "".join(report.format())
        except Exception:
            text = f"{type(error).__name__}: (no traceback: its text cannot be made)"
        try:
            value = str(error)
        except Exception:
            value = "(no text)"
        limit = 100_000
        return {
            "ename": type(error).__name__,
            "evalue": value[:limit],
            "traceback": text[-limit:].rstrip("\n").split("\n"),
        }

    def cleaning_up():
        """Whether the cell does what it does because of an interrupt: a `finally`, an `except`, the end of a `with`."""
        error = sys.exc_info()[1]
        seen = set()
        while error is not None and id(error) not in seen:
            if isinstance(error, KeyboardInterrupt):
                return True
            seen.add(id(error))
            error = error.__context__
        return state["settling"]

    def interrupt(number, frame):
        if os.getpid() != pid:
            os._exit(130)
        if state["sending"]:
            state["late"] = True
        elif state["running"] and not (state["interrupted"] and cleaning_up()):
            # The guest's second one (interp.c) is for a cell that has not got the first.
            state["interrupted"] = True
            raise KeyboardInterrupt

    def repair():
        """Undoes what a cell may have done to the descriptors and to the interrupt."""
        for fd, copy in kept.items():
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(copy, fd)
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)
        if getattr(sys.stdin, "closed", True):  # exit() closes it
            sys.stdin = open(os.devnull, encoding="utf-8")
        nonlocal out, err
        if out.closed:
            out = sys.__stdout__ = Output(1)
        if err.closed:
            err = sys.__stderr__ = Output(2)
        for name, stream in (("stdout", out), ("stderr", err)):
            if getattr(getattr(sys, name), "closed", True):
                setattr(sys, name, stream)

    def run_cell(code):
        value = cell_magic(code) if code.startswith("%%") else run_code(code)
        world["In"].append(code)
        if value is not None:
            world["___"], world["__"], world["_"] = world["__"], world["_"], value
            world["Out"][len(world["In"]) - 1] = value
            show(describe(value))
        show_figures()

    def one(message):
        state["run"] = message["run"]
        state["late"] = state["interrupted"] = False
        repair()
        answer = None
        try:
            try:
                state["running"] = True
                run_cell(message["code"])
            finally:
                state["running"] = False
        except BaseException as error:
            if os.getpid() == pid:
                answer = failure(error)
            else:
                push_all()
                os._exit(1)
            del error
        if os.getpid() != pid:  # a child that a cell forked came to the cell's end
            push_all()
            os._exit(0)
        push_all()
        send("D" if answer is None else "E", message["run"], answer)

    signal.signal(signal.SIGINT, interrupt)
    import importlib.util

    try:
        import faulthandler

        faulthandler.enable(kept[2])
    except Exception:
        pass
    send("H", None, {"version": "Python " + ".".join(map(str, sys.version_info[:3]))})
    while True:
        message = receive()
        if "run" not in message:
            continue
        try:
            one(message)
        except KeyboardInterrupt:  # between the cell's end and its answer
            push_all()
            send("E", message["run"], {"ename": "KeyboardInterrupt", "evalue": "", "traceback": []})


_main()
