# Makes sure that the tests find a RabbitMQ; read by `test` after setup.sh. Only the programs matter: the tests start
# a private broker from them, and never touch one that runs on the machine.

find_or_install_rabbitmq() {
    has_rabbitmq && return
    if command -v apt-get >/dev/null 2>&1 && can_be_root; then
        say "installing RabbitMQ (apt-get install rabbitmq-server) …"
        install_rabbitmq || say "apt-get could not install it; the lines above say why."
        has_rabbitmq && return
    fi
    if command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
        say "no RabbitMQ here: the tests run it in Docker."
        return
    fi
    fail 2 "The tests need RabbitMQ: install rabbitmq-server (3.10 or newer; macOS: brew install rabbitmq), or start Docker."
}

# The places tests/support/rabbitmq.py looks at.
has_rabbitmq() {
    command -v rabbitmq-server >/dev/null 2>&1 && return
    for script in /usr/lib/rabbitmq/bin /usr/sbin /opt/homebrew/opt/rabbitmq/sbin /usr/local/opt/rabbitmq/sbin; do
        [ -x "$script/rabbitmq-server" ] && return
    done
    return 1
}

can_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true >/dev/null 2>&1
}

# Debian starts a service when it installs it, and at every boot. This machine was not asked to run a broker: a
# policy file forbids the start while apt-get works (invoke-rc.d's documented way), and the services are disabled.
install_rabbitmq() {
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root='sudo -n'; fi
    $as_root sh -s <<'END' >&2
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update < /dev/null || true
apt-get -qq install -y --no-install-recommends rabbitmq-server < /dev/null > /dev/null
if command -v systemctl > /dev/null; then
    systemctl --quiet disable rabbitmq-server.service epmd.socket epmd.service < /dev/null || true
fi
END
}
