# Makes sure, where that is possible, that the tests can build the image; read by `test` after rabbitmq.sh. The test of the
# image needs root, and is skipped where a program is missing.

. "$root/scripts/apt.sh"

find_or_install_buildah() {
    [ "$(id -u)" = 0 ] && [ "$(uname -s)" = Linux ] || return 0
    command -v buildah >/dev/null 2>&1 && command -v debootstrap >/dev/null 2>&1 && return
    command -v apt-get >/dev/null 2>&1 || return 0
    say "installing buildah and debootstrap (apt-get install buildah debootstrap) …"
    apt_install buildah debootstrap || say "apt-get could not install them: the test of the image is skipped."
}
