"""Faults of projects: the one table from what a red gate printed to a hint for the agent that has to mend it.

A hint tells what the class of failure usually needs; the gate's own output goes to the agent beside it. The first row
that fits counts, so causes come before what follows from them (a module that is missing before the test that failed for
it). What fits no row stays unknown: no hint is better than a wrong one. The rows were tried on output of the real
tools; those of C# are by its documentation.

Patterns are for lines (`^` and `$` are a line's), and take time in proportion to the output: a repetition ends before
anything that the next one could take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ProjectFault:
    name: str
    text: re.Pattern[str]
    hint: str
    """One or two sentences for the agent's next prompt."""
    hard: bool = False
    """Nothing in the worktree mends it: a person must act."""
    limit: str = ""
    """The limit of `[sandbox.limits]` for which we ended it."""
    exits: tuple[int | None, ...] = ()
    """Exit codes that mean this where no text is known; negative for a signal, None for the gate's time-out."""


def _texts(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.MULTILINE)


def _near_end(lines: int, *patterns: str) -> re.Pattern[str]:
    """For what programs also say and get over: it counts where at most so many lines come after it."""
    return re.compile(rf"(?:{'|'.join(patterns)})(?=[^\n]*(?:\n[^\n]*){{0,{lines}}}\Z)", re.MULTILINE)


_NEVER = r"(?!)"
_SYSTEM_PATH = r"/(?:bin|boot|dev|etc|lib|lib64|opt|proc|root|sbin|sys|usr|var)\b"

FAULTS: tuple[ProjectFault, ...] = (
    # --- what no tool of a language says -----------------------------------------------------------
    ProjectFault(
        "git: conflict markers",
        _texts(
            r"^[^\n:]{1,300}:\d+: leftover conflict marker$",
            r"error TS1185: ",
            r"error: version control conflict marker in file",
            r"error: encountered diff marker",
            r"Merge conflict marker encountered",
            r"<{7} [^\n]{0,200}\n(?:E[ \t]{0,20})?[ \t]{0,20}\^+$",  # what Python, Node and javac point at
        ),
        "A file still has conflict markers (<<<<<<<, =======, >>>>>>>). Resolve each conflict so that both sides' "
        "intent is kept, and search the whole tree for further markers.",
    ),
    ProjectFault(
        "git: white space",
        _texts(
            r"^[^\n:]{1,300}:\d+: (?:trailing whitespace|space before tab in indent|indent with spaces"
            r"|tab in indent|new blank line at EOF)\.$"
        ),
        "`git diff --check` found white space errors in the lines it names. Remove them there, and touch no other "
        "lines.",
    ),
    # --- the machine -------------------------------------------------------------------------------
    ProjectFault(
        "machine: disk full",
        _texts(
            r"(?:: '?|\] )No space left on device'?(?:$|: |\))",
            r"^(?:Error: |npm (?:ERR!|error) .{0,80}| {0,4})ENOSPC: no space left on device",
            r"^[^\n\"']{0,300}: Disk quota exceeded",
        ),
        "The machine that runs the gates has no disk space left. This cannot be mended in the worktree.",
        hard=True,
    ),
    ProjectFault(
        "machine: no network",
        _near_end(
            30,
            r"^fatal: unable to access '[^'\n]{1,300}': (?:Could not resolve|Failed to connect|Couldn't connect)",
            r"^(?:ssh|fatal): .{0,200}(?:Could not resolve hostname|Temporary failure in name resolution)",
            r"^curl: \((?:5|6|7|28)\) (?![^\n]{0,200}(?:localhost|127\.0\.0\.1))",
            r"^npm (?:ERR!|error) (?:code |errno |network ).{0,200}"
            r"(?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|_CERT)",
            r"^WARNING: Retrying .{0,300}(?:NewConnectionError|NameResolutionError|ConnectTimeoutError)",
            r"\.go:\d+:\d+: .{0,300}dial tcp",
            r"^go: .{0,300}dial tcp",
            r"^[ \t]{0,8}(?:warning: spurious network error .{0,200}|\[\d+\] )(?:Could not|Couldn't|Failed to) "
            r"(?:resolve|connect)",
            r"^\[ERROR\] .{0,900}(?:Unknown host |Temporary failure in name resolution|Network is unreachable)",
            r"^> Could not (?:GET|HEAD) 'https?://",
            r"^[EW]: (?:Failed to fetch|Some index files failed).{0,300}(?:resolv|connect)",
            r"^[ \t]*(?:Temporary failure resolving|Could not resolve) '[\w.-]+'",
            r"^[^\n\"']{0,200}: (?:Network is unreachable|Temporary failure in name resolution)$",
        ),
        "The gate could not reach a server (a package registry, a git host). If this task added the download, do "
        "without it; else it cannot be mended in the worktree: the network is down, or `network` under [sandbox] in "
        "config.toml or of the gate does not let it through.",
        hard=True,
    ),
    ProjectFault(
        "machine: docker",
        _near_end(
            30,
            r"Cannot connect to the Docker daemon",
            r"^(?:docker: |error during connect: |ERROR: )?[^\n]{0,80}failed to connect to the docker API",
            r"dial unix /\S{0,80}docker\.sock",
        ),
        "The gate needs Docker, and no Docker daemon answers on this machine. This cannot be mended in the worktree.",
        hard=True,
    ),
    ProjectFault(
        "machine: permission denied",
        _texts(
            rf"^[^\n\"']{{0,200}}(?<!\d:)[ \u2018'`\"]{_SYSTEM_PATH}[^\n:]{{0,200}}"
            r": (?:Permission denied|Read-only file system)",
            rf"PermissionError: \[Errno 13\] Permission denied: ['\"]{_SYSTEM_PATH}",
            rf"EACCES: permission denied, \w+ '{_SYSTEM_PATH}",
        ),
        "The gate may not write to a folder of the machine outside the worktree. If this task made it write there, "
        "use a folder of the worktree or $TMPDIR; else it cannot be mended in the worktree: `write` under [sandbox] in "
        "config.toml allows it.",
        hard=True,
    ),
    ProjectFault(
        "machine: out of memory",
        _texts(
            r"^Killed$",
            r"^[^\n\"']{0,200}: line \d+:[ \t]+\d+ Killed\b",
            r"^make(?:\[\d+\])?: \*\*\* .{0,200} (?:Killed|Error 137)$",
            r"fatal error: Killed signal terminated program",
            r"^[^\n\"']{0,200}[:\]] (?:[Cc]annot allocate memory|xrealloc: cannot allocate|virtual memory exhausted)",
            r"signal: 9, SIGKILL: kill",
            r"signal: killed$",
        ),
        "A process of the gate was killed, as the kernel does when memory is used up. Unless this task made it need "
        "much more memory, it cannot be mended in the worktree.",
        hard=True,
        exits=(137, -9),
    ),
    # Only what the gate itself wants to run, so only where nothing was printed after it.
    ProjectFault(
        "gate: command not found",
        _texts(r"^/bin/(?:ba|da)?sh: (?:line )?\d+: [^\n/:]{1,200}: (?:command )?not found\Z"),
        "The gate's own command is not installed on this machine. This cannot be mended in the worktree.",
        hard=True,
    ),
    ProjectFault(
        "machine: address in use",
        _texts(r"[Aa]ddress already in use(?: ?[\w.:*\[\]-]{1,60})?['\")]{0,3}$"),
        "Something listens on a fixed port already: other tasks' gates run on the same machine. Let tests take a free"
        " port (port 0), and close what they open.",
    ),
    # --- Python, but JavaScript's syntax errors have the same name -----------------------------------
    ProjectFault(
        "javascript: syntax error",
        _texts(
            r"^[ \t]{0,8}SyntaxError: [^\n]{0,2000}\n(?:[^\n]{0,300}\n){0,14}[ \t]{1,12}at ",
            r"^[ \t]{0,8}Jest encountered an unexpected token$",
            r"^(?:Error: )?Failed to parse source for import analysis",
        ),
        "A JavaScript or TypeScript file does not parse. Mend the place that the first such error names before "
        "anything else.",
    ),
    ProjectFault(
        "python: syntax error",
        _texts(
            r"^(?:E[ \t]{1,8})?(?:SyntaxError|IndentationError|TabError): ",
            r"^invalid-syntax: ",
            r"^[^\n:]{1,300}\.pyi?:\d+:(?:\d+:)? (?:error: [^\n]{0,300}  \[syntax\]$|invalid-syntax: |E999 )",
        ),
        "A Python file does not parse. Mend the place that the error names before anything else; the cause may be an "
        "unclosed bracket or quote some lines above it.",
    ),
    ProjectFault(
        "python: import error",
        _texts(
            r"^(?:E[ \t]{1,8})?(?:ModuleNotFoundError|ImportError): ",
            r"^[^\s:]{0,200}python[\d.]*(?:\.exe)?: (?:No module named|Error while finding module)",
        ),
        "A Python module or name cannot be imported. Check its spelling, that it exists at this commit, that imports "
        "are not circular, and that a new dependency is declared where the project declares its own.",
    ),
    ProjectFault(
        "tests: none found",
        _texts(
            r"^(?:=+ )?(?:no tests ran|\d+ deselected) in [\d.]+s",
            r"^No tests? (?:files )?found, exiting with code 1",
            r"^Error: No test files found",
            r"^NO TESTS RAN$",
        ),
        "The test runner found no tests to run. Check the path that the gate names, the names of test files and "
        "functions, and the runner's settings.",
    ),
    ProjectFault(
        "python: collection error",
        _texts(
            r"^E[ \t]{1,8}fixture '[^'\n]{1,100}' not found$",
            r"^_{3,} ERROR (?:collecting|at setup of|at teardown of) ",
            r"^ERROR: (?:file or directory not found|not found|usage): ",
            r"^ERROR [^\s:]{1,300}\.py(?:::\S{1,300})?(?: - |$)",
            r"^!+ Interrupted: \d+ errors? during collection !+$",
        ),
        "pytest could not collect or set up tests: look at fixtures, conftest.py and what runs at import, not at the "
        "assertions.",
    ),
    ProjectFault(
        "python: test failed",
        _texts(
            r"^FAILED [^\s(]\S{0,300}::",
            r"^(?:=+ )?[1-9]\d* failed\b[^\n]{0,120} in [\d.]+s",
            r"^(?:FAIL|ERROR): \w+ \([\w.]{1,300}\)",
            r"^FAILED \((?:failures|errors|unexpected successes)=",
        ),
        "Python tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task "
        "itself changes what the test expects, and never weaken or skip a test to get past the gate.",
    ),
    ProjectFault(
        "tests: coverage too low",
        _texts(
            r"^(?:FAIL|ERROR:?) (?:Required test coverage of|Coverage failure: total of)",
            r"^Coverage failure: total of",
            r"^Jest: .{0,200}(?:threshold|does not meet)",
            r"^ERROR: Coverage for \w+ \([\d.]+%\) does not meet",
        ),
        "The tests pass, but cover too little of the code. Add tests for what this task has added; do not lower the "
        "limit.",
    ),
    ProjectFault(
        "python: type error",
        _texts(
            r"^[^\n:]{1,300}\.pyi?:\d+:(?:\d+:)? error: ",
            r"^[ \t]{0,8}[^\n:]{1,300}\.pyi?:\d+:\d+ - error: ",
        ),
        "The type checker rejects the code. Mend the types at their source rather than with casts or `type: ignore`.",
    ),
    ProjectFault(
        "format: not formatted",
        _texts(
            r"^[Ww]ould reformat:? ",
            r"^unformatted: File would be reformatted$",
            r"^\[warn\] Code style issues found",
            r"^Diff in /?[^\n]{1,300}(?::\d+:$| at line \d+:$)",
        ),
        "Files are not formatted as the project formats them. Run the same tool without its check flag, on the files "
        "that it names.",
    ),
    ProjectFault(
        "python: lint",
        _texts(
            r"^[^\n:]{1,300}\.(?:pyi?|ipynb):\d+:\d+: (?:\[?[A-Z]{1,4}\d{3,4}\b)",
            r"^[A-Z]{1,4}\d{3,4} [^\n]{1,400}\n +--> [^\n:]{1,300}:\d+:\d+$",
        ),
        "The linter rejects the code. Mend each finding in the lines that it names; suppress one only where it is "
        "wrong.",
    ),
    # --- TypeScript, JavaScript --------------------------------------------------------------------
    ProjectFault(
        "typescript: compile error",
        _texts(r"\berror TS\d{4,5}: "),
        "The TypeScript compiler rejects the code. Mend the first error of each file first, at the types' source "
        "rather than with `any` or `@ts-ignore`.",
    ),
    ProjectFault(
        "javascript: lint",
        _texts(
            r"^✖ \d+ problems? \([1-9]\d* errors?, ",
            r"^ESLint found too many warnings",
            r"^ESLint couldn't find ",
            r"^Oops! Something went wrong! :\(",
        ),
        "ESLint rejects the code, or cannot read its configuration. Mend each finding in the lines that it names; "
        "disable a rule only where it is wrong.",
    ),
    ProjectFault(
        "javascript: module not found",
        _texts(
            r"^[ \t]{0,8}(?:Error(?: \[\w{1,40}\])?: )?Cannot find (?:module|package) '",
            r"\[?ERR_MODULE_NOT_FOUND\b",
            r"^[ \t]{0,8}(?:Error: )?Failed to (?:resolve import|load url) ",
        ),
        "A module cannot be found. Check the path and its file extension, that the file exists at this commit, and "
        "that a new dependency is in package.json and its lock file.",
    ),
    ProjectFault(
        "javascript: out of memory",
        _texts(r"^FATAL ERROR: .{0,100}(?:heap out of memory|Allocation failed)"),
        "Node used up its heap. Look for a loop or a list without end in what this task changed.",
    ),
    ProjectFault(
        "javascript: test failed",
        _texts(
            r"^Tests: +[1-9]\d* failed",
            r"^Test Suites: +[1-9]\d* failed",
            r"^ {2,12}Tests  [1-9]\d* failed",
            r"^ {1,12}Test Files  [1-9]\d* failed",
            r"^ {1,4}[1-9]\d* failing$",
            r"^(?:\u2139|#) fail [1-9]",
        ),
        "JavaScript tests fail. Find out for each whether the code or the test is wrong; mend the code unless the "
        "task itself changes what the test expects, and never weaken or skip a test, nor update a snapshot unread.",
    ),
    ProjectFault(
        "npm: project error",
        _texts(
            r"^npm (?:ERR!|error) (?:Missing script: |Run \"npm help ci\" for more info)",
            r"^npm (?:ERR!|error) code (?:EUSAGE|ERESOLVE|EJSONPARSE|ETARGET|E404|EBADENGINE|ENOENT|EOVERRIDE)",
        ),
        "npm cannot use package.json or its lock file. Mend the file that it names; after a change of dependencies "
        "write the lock file anew with `npm install --package-lock-only`.",
    ),
    ProjectFault(
        "javascript: exception",
        _texts(r"^Node\.js v\d+\.\d+\.\d+$"),
        "A Node program ended with an uncaught error: the first stack line inside the project is where to look.",
    ),
    # --- C# ----------------------------------------------------------------------------------------
    ProjectFault(
        "csharp: compile error",
        _texts(r"(?:^|: |\s)error (?:CS|MSB|NU|NETSDK|FS|BC|CA|IDE)\d{4}: "),
        "The .NET build fails. Mend the first error of each file first; NU and MSB codes are about project files and "
        "packages, not about code.",
    ),
    ProjectFault(
        "csharp: test failed",
        _texts(r"^[ \t]{0,8}Failed! +- Failed: +[1-9]", r"^Test Run Failed\."),
        ".NET tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task "
        "itself changes what the test expects.",
    ),
    # --- C, C++; before Rust, which links with the same linker -------------------------------------
    ProjectFault(
        "c: linker error",
        _texts(
            r": undefined reference to [`'\u2018]",
            r": multiple definition of [`'\u2018]",
            r"^[^\n:]{0,200}ld(?:\.\w{1,8})?: cannot find -l",
            r"^collect2: error: ld returned",
            r"\blld: error: ",
            r"^error: linking with `",
        ),
        "The linker fails: a function is declared but not defined or not linked, or defined twice. Check that new "
        "source files and libraries are in the build's lists.",
    ),
    ProjectFault(
        "c: compile error",
        _texts(
            r"^[^\n:]{1,300}\.(?:[chCHi]|cc|cpp|cxx|c\+\+|hh|hpp|hxx|ipp|inl|mm?|cu):\d+:(?:\d+:)? (?:fatal )?error: "
        ),
        "The C or C++ compiler rejects the code. Mend the first error of each file first: later ones often follow "
        "from it.",
    ),
    ProjectFault(
        "c: crash",
        _texts(
            r"^==\d+==ERROR: \w{1,30}Sanitizer: ",
            r"^[^\n]{1,300}:\d+:\d+: runtime error: ",
            r"^make(?:\[\d+\])?: \*\*\* .{0,200} (?:Segmentation fault|Aborted|Bus error|Error 139)",
            r"^(?:[^\n\"']{0,200}[ :])?Segmentation fault(?: \(core dumped\))?$",
        ),
        "A program crashed. With a sanitizer's report, its first frame inside the project is where to look; without "
        "one, build with -g -fsanitize=address,undefined and run it again.",
        exits=(139, 134, -11, -6),
    ),
    ProjectFault(
        "cmake: configure error",
        _texts(r"^CMake Error(?:: | at |\b)"),
        "CMake cannot configure the build. Check that source files exist under the names in CMakeLists.txt, and that "
        "what `find_package` wants is what the project already uses.",
    ),
    ProjectFault(
        "c: test failed",
        _texts(
            r"^The following tests FAILED:$", r"^\d+% tests passed, [1-9]\d* tests? failed out of", r"^\[  FAILED  \] "
        ),
        "C or C++ tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task "
        "itself changes what the test expects.",
    ),
    # --- Rust --------------------------------------------------------------------------------------
    ProjectFault(
        "rust: lint",
        _texts(
            r"(?:#\[deny\(clippy::|`-D clippy::|rust-clippy/)[^\n]{0,400}(?:\n[^\n]{0,400}){0,60}"
            r"^error: could not compile"
        ),
        "Clippy rejects the code. Mend each finding in the lines that it names; allow one only where it is wrong.",
    ),
    ProjectFault(
        "rust: compile error",
        _texts(
            r"^error(?:\[E\d{4}\])?: [^\n]{0,1000}\n +--> [^\n:]{1,300}\.rs:\d+:\d+$",
            r"^error: could not compile `",
        ),
        "The Rust compiler rejects the code. Mend the first error first, and read its notes and help lines.",
    ),
    ProjectFault(
        "rust: test failed",
        _texts(r"^test result: FAILED\.", r"^error: test failed, to rerun pass"),
        "Rust tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task "
        "itself changes what the test expects.",
    ),
    # --- Go ----------------------------------------------------------------------------------------
    ProjectFault(
        "go: vet",
        _texts(
            r"^(?:vet: )?[^\n:]{1,300}\.go:\d+:\d+: (?:[\w./*()]{1,100} (?:format|call|passes lock by value)"
            r"|self-assignment of|unreachable code|possible |struct field |assignment copies lock value"
            r"|the cancel function|method [^\n]{1,200} should have signature|[^\n]{1,200} literal uses unkeyed fields)",
        ),
        "`go vet` finds a likely mistake in the lines that it names. Mend it there.",
    ),
    ProjectFault(
        "go: compile error",
        _texts(
            r"^# [^\n]{1,200}\n(?:# [^\n]{1,200}\n)?(?:vet: )?[^\n:]{1,300}\.go:\d+:\d+: ",
            r"^FAIL\t[^\n]{1,200} \[(?:build|setup) failed\]$",
            r"^[^\n:]{1,300}\.go:\d+:\d+: (?:no required module provides package|syntax error|expected |cannot find)",
            r"^go: (?:cannot find main module|updates to go\.mod needed|inconsistent vendoring|errors parsing go\.mod)",
        ),
        "The Go code does not compile, or its modules do not resolve. Mend the first error of each package first; "
        "unused imports and variables are errors in Go.",
    ),
    ProjectFault(
        "go: test failed",
        _texts(r"^[ \t]{0,16}--- FAIL: \S", r"^FAIL\t[^\n]{1,200}\t[\d.]+s$"),
        "Go tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task itself"
        " changes what the test expects.",
    ),
    # --- Java --------------------------------------------------------------------------------------
    ProjectFault(
        "java: compile error",
        _texts(
            r"^[^\n:]{1,300}\.(?:java|kt):\d+: error: ",
            r"^\[ERROR\] COMPILATION ERROR",
            r"^> Compilation failed; see the compiler ",
            r"^\[ERROR\] [^\n:]{1,300}\.(?:java|kt):\[\d+,\d+\]",
            r"^e: (?:file://)?[^\n:]{1,300}\.kts?:",
        ),
        "The Java or Kotlin compiler rejects the code. Mend the first error of each file first: later ones often "
        "follow from it.",
    ),
    ProjectFault(
        "java: test failed",
        _texts(
            r"^(?:\[ERROR\] )?Tests run: \d+, +Failures: (?:[1-9]|0, +Errors: [1-9])",
            r"^\[ERROR\] Failures:[ \t]*$",
            r"There are test failures\.",
            r"^\[?\d* *tests? completed, [1-9]\d* failed",
            r"^[\w$.]{1,200} > [^\n]{1,200} FAILED$",
            r"^FAILURES!!!$",
        ),
        "JUnit tests fail. Find out for each whether the code or the test is wrong; mend the code unless the task "
        "itself changes what the test expects.",
    ),
    ProjectFault(
        "java: build failed",
        _texts(
            r"^FAILURE: Build failed with an exception\.$",
            r"^\[INFO\] BUILD FAILURE$",
            r"^\[ERROR\] [^\n]{0,80}processing the POMs",
        ),
        "Maven or Gradle failed before or outside of compiling and testing. Check the build files that this task "
        "changed, and the versions of what they ask for.",
    ),
    # --- shell, make -------------------------------------------------------------------------------
    ProjectFault(
        "shell: not executable",
        _near_end(
            4,
            r"^[^\n\"']{1,200}: (?:line )?\d+: [^\n:]{1,300}: Permission denied$",
            r"^make: [^\n:]{1,300}: Permission denied$",
        ),
        "A script is not executable. Set its bit in git too: `git update-index --chmod=+x <file>`, or run it by its "
        "interpreter.",
        exits=(126,),
    ),
    ProjectFault(
        "shell: no such file",
        _near_end(
            4,
            r"^(?:/bin/)?(?:ba|da|z)?sh: (?:line )?\d+: [^\n:]{0,300}/[^\n:]{0,300}: not found$",
            r"^(?:/bin/)?(?:ba|da|z)?sh: (?:\d+: )?[^\n]{0,300}"
            r"(?:No such file or directory|cannot open [^\n]{1,300}: No such file)",
            r"^[^\n\"']{1,200}: (?:line )?\d+: (?:cd|\.|source|cannot open|[^\n:]{0,300}/)[^\n]{0,300}"
            r"(?:No such file or directory|can't cd to [^\n]{1,300})$",
            r"^[^\n:]{0,300}sh: \d+: cd: can't cd to ",
            r"^[^\n]{0,200}python[\d.]*: can't open file '",
            r"^make(?:\[\d+\])?: \*\*\* (?:No rule to make target|[^\n]{1,300}: No such file or directory\.  Stop)",
            r"^(?:cat|cp|mv|ls|head|tail|grep|sed|awk|stat|rm|chmod|find|diff|wc|sort|tar): [^\n]{1,300}"
            r": No such file or directory$",
        ),
        "A file or folder that the gate or a script names does not exist. Check whether it was moved, renamed, never "
        "committed, or is ignored by .gitignore.",
    ),
    ProjectFault(
        "shell: command not found",
        _near_end(
            4,
            r"^[^\n\"']{1,200}: (?:line )?\d+: [^\n:]{1,200}: (?:command )?not found$",
            r"^(?:/usr/bin/)?env: [\u2018'][^\n]{1,200}['\u2019]: No such file or directory$",
            r"^make(?:\[\d+\])?: [^\n:/*]{1,200}: (?:No such file or directory|Command not found)$",
        ),
        "A script calls a command that is not installed here. Check its spelling; a tool of the project must be "
        "declared as a dependency and called the way that the project calls its others.",
        exits=(127,),
    ),
    ProjectFault(
        "shell: syntax error",
        _texts(
            r"^[^\n\"']{1,200}: (?:line )?\d+: Syntax error: ",
            r"^[^\n\"']{1,200}: line \d+: (?:syntax error|unexpected EOF while looking for)",
            r"^[^\n\"']{1,200}: -c: (?:line \d+: )?(?:syntax error|unexpected EOF)",
        ),
        "A shell script does not parse. Look for an unclosed quote, `if`, `do` or bracket above the line that is "
        "named; `/bin/sh` knows no bash extensions.",
    ),
    ProjectFault(
        "make: Makefile error",
        _texts(r"^\S{0,100}[Mm]akefile:\d+: \*\*\* ", r"^\S{1,100}\.mk:\d+: \*\*\* "),
        "make cannot read the Makefile. Recipes are indented by a tab, not by blanks.",
    ),
    # --- last: it says only that some program failed -------------------------------------------------
    # Uncaught, so little is printed after it: one in the middle of a log was told and outlived.
    ProjectFault(
        "python: exception",
        _texts(
            r"^Traceback \(most recent call last\):\n(?:[ \t][^\n]*\n)+[A-Za-z_][\w.]{0,200}(?:: [^\n]*)?"
            r"(?:\n[^\n]*){0,8}\Z"
        ),
        "A Python program ended with an uncaught exception: the last stack line inside the project is where to look.",
    ),
    ProjectFault(
        "limit: memory",
        _texts(_NEVER),
        "The gate used more memory than the operator allows. Look for what this task has made grow without bound, or "
        "run fewer tests at once. If the project needs as much: memory_gb under [sandbox.limits] in config.toml.",
        limit="memory",
    ),
    ProjectFault(
        "limit: processes",
        _texts(_NEVER),
        "The gate had more processes and threads at once than the operator allows. Look for what starts them without "
        "bound, or run fewer tests at once. If the project needs as many: processes under [sandbox.limits].",
        limit="processes",
    ),
    ProjectFault(
        "limit: output",
        _texts(_NEVER),
        "The gate printed more than the operator allows. Look for a loop that prints. If the project needs as much: "
        "output_gb under [sandbox.limits] in config.toml.",
        limit="output",
    ),
    ProjectFault(
        "limit: disk",
        _texts(_NEVER),
        "The gate filled more of the disk than the operator allows. Look for what writes without bound. If the project "
        "needs as much: disk_gb under [sandbox.limits] in config.toml.",
        limit="disk",
    ),
    ProjectFault(
        "time-out",
        _texts(_NEVER),
        "The gate took longer than it may. Look for a test that waits for ever (input, a server, a lock), an endless "
        "loop, or work that has become much slower by this task's changes.",
        exits=(None, 124),
    ),
)

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][0-9A-B]|[=>])")
_BREAK = re.compile(r"\r+\n?")


def classify(output: str, exit_code: int | None = None, limit: str = "") -> ProjectFault | None:
    """The row for what a red gate printed. None: unknown, or not red at all. `limit`: we ended it for that one.

    `exit_code` is negative for a signal, and None for a gate that was ended by its time-out, whatever it printed: it
    had not finished, so what it said was not why.
    """
    if exit_code == 0:
        return None
    if limit:
        return next((row for row in FAULTS if row.limit == limit), None)
    if exit_code is None:
        return next(row for row in FAULTS if None in row.exits)
    text = _BREAK.sub("\n", _TERMINAL.sub("", output)).rstrip()
    said = next((row for row in FAULTS if row.text.search(text)), None)
    return said or next((row for row in FAULTS if exit_code in row.exits), None)
