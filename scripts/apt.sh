# Installs Debian packages where this user may; read by the other scripts after rabbitmq.sh, which has can_be_root.

# apt_install PACKAGE…: fails where apt-get can't install them; its own lines then say why.
apt_install() {
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root='sudo -n'; fi
    $as_root sh -s -- "$@" <<'END' >&2
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update < /dev/null || true
apt-get -qq install -y --no-install-recommends "$@" < /dev/null > /dev/null
END
}
