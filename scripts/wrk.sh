# Makes sure that the benchmark finds wrk, which makes the raw HTTP pressure; read by `wallet` after rabbitmq.sh.

. "$root/scripts/apt.sh"

find_or_install_wrk() {
    command -v wrk >/dev/null 2>&1 && return
    if command -v apt-get >/dev/null 2>&1 && can_be_root; then
        say "installing wrk (apt-get install wrk) …"
        apt_install wrk || say "apt-get could not install it; the lines above say why."
        command -v wrk >/dev/null 2>&1 && return
    fi
    fail 2 "The benchmark needs wrk: install it (Debian: apt-get install wrk; macOS: brew install wrk)."
}
