# Sets up .venv from a lock; read by `wallet` and `test`, which set $root first. POSIX sh, for macOS too.
#
# A stamp in .venv names the locks it was made from, by checksum, and is written last: a .venv without one was
# interrupted and is made again from nothing. One set-up works at a time; another waits for it.
#
# Processes may run from .venv meanwhile. The lock for tests has every package of the other one in the same version, so
# to go from that one to this only adds packages; the stamp then stays, and a .venv that works is never removed.

venv=$root/.venv
stamp=$venv/set-up
lock_dir=$root/.venv.lock.d

say() { printf '%s\n' "$*" >&2; }
# fail CODE MESSAGE. Codes as of every command: 1 a failed check, 2 a wrong call or machine, 3 what can't be reached.
fail() { code=$1; shift; say "$*"; exit "$code"; }

# set_up LOCK: .venv holds what LOCK names. The lock for tests holds the other one too.
set_up() {
    is_set_up "$1" && return
    lock_set_up
    if ! is_set_up "$1"; then
        if is_set_up requirements.lock; then
            say "adding the packages for tests …"
        else
            make_venv
            rm -f "$stamp"
        fi
        install_lock "$1" || fail 3 "The set-up failed; the lines above say why. Run this again to try again."
        write_stamp "$1"
    fi
    unlock_set_up
}

is_set_up() {
    [ -f "$stamp" ] && [ -x "$venv/bin/python" ] && grep -q -x -F "$(checksum "$1")" "$stamp"
}

# Whether there is something to run, of whatever version.
can_run() {
    [ -f "$stamp" ] && [ -x "$venv/bin/python" ]
}

checksum() {
    (cd "$root" && cksum "$1")
}

write_stamp() {
    {
        checksum requirements.lock
        [ "$1" = requirements.lock ] || checksum "$1"
    } > "$stamp.new"
    mv "$stamp.new" "$stamp"
}

make_venv() {
    if [ -f "$stamp" ] && [ -x "$venv/bin/python" ] && { has_uv || "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
        say "setting up (the versions have changed) …"
        return
    fi
    rm -rf "$venv"
    python=$(find_python) || python=
    if has_uv; then
        say "setting up (first use) …"
        # Where the machine has no Python that is new enough, uv fetches one.
        uv venv --quiet --no-project --python "${python:->=3.11}" "$venv" || fail 3 "uv could not make $venv."
        return
    fi
    [ -n "$python" ] || fail 2 "Python 3.11 or newer is needed, and not on PATH; install it, or uv, which brings its own."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail 2 "Python's venv module is missing; install the package python3-venv (Debian: apt-get install python3-venv)."
    say "setting up (first use, about a minute) …"
    "$python" -m venv "$venv" || fail 2 "$python could not make $venv."
}

# A lock is complete, and leaves out what a package asks for without need: so nothing beyond it is installed.
install_lock() {
    if has_uv; then
        uv pip install --quiet --python "$venv/bin/python" --no-deps --require-hashes --requirements "$root/$1"
    else
        # A .venv that uv made has no pip.
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null 2>&1
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
            --no-deps --require-hashes --requirement "$root/$1"
    fi
}

has_uv() { command -v uv >/dev/null 2>&1; }

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        # A name on PATH may be a shim that runs nothing, so each is tried.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# With flock the kernel gives the lock back, however its holder ended. macOS has no flock command: there a directory
# is the lock, and whoever finds its holder gone takes it over, alone in that, and after looking again.
lock_set_up() {
    if command -v flock >/dev/null 2>&1; then
        exec 9> "$root/.venv.lock"
        flock -n 9 || { say "waiting for another set-up to finish …"; flock 9; }
        return
    fi
    waited=
    until mkdir "$lock_dir" 2>/dev/null; do
        if holder_is_gone && mkdir "$lock_dir/taking-over" 2>/dev/null; then
            if holder_is_gone; then
                echo $$ > "$lock_dir/pid"
                rmdir "$lock_dir/taking-over"
                return
            fi
            rmdir "$lock_dir/taking-over"
        fi
        [ -n "$waited" ] || say "waiting for another set-up to finish (if none runs, remove $lock_dir) …"
        waited=yes
        sleep 1
    done
    echo $$ > "$lock_dir/pid"
}

holder_is_gone() {
    holder=$(cat "$lock_dir/pid" 2>/dev/null) || return
    [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null && ! ps -p "$holder" >/dev/null 2>&1
}

unlock_set_up() {
    if command -v flock >/dev/null 2>&1; then
        exec 9>&-
    else
        rm -rf "$lock_dir"
    fi
}
