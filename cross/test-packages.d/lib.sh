# What the tests of packages share. Sourced by them.
# shellcheck shell=bash
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

# For what should happen soon, on a machine that is busy.
patience_s=20

fail() {
  echo "FAILED: $*" >&2
  exit 1
}
passed=0
# check WHAT COMMAND...
check() {
  local what=$1 said
  shift
  said=$*
  "$@" || fail "$what (${said:0:300})"
  passed=$((passed + 1))
}
same() { [ "$1" = "$2" ] || { echo "  is: $1" >&2 && echo "  is not: $2" >&2 && false; }; }
# until COMMAND...: asks until it is so.
until_so() {
  local end=$((SECONDS + patience_s))
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}
not() { ! "$@"; }

api=http://127.0.0.1:3500/v1.0
answers() { curl -fs -o /dev/null "$api/healthz"; }
save() { curl -fs "$api/state/statestore" -d "[{\"key\":\"$1\",\"value\":\"$2\"}]"; }
state() { curl -fs "$api/state/statestore/$1"; }
# Of the service: the newest process that is Pillion itself.
main_pid() { pgrep -n -x pillion; }

is_static() { ! ldd "$1" 2>/dev/null | grep -q /ld-; }
busybox_static() {
  local path
  for path in /bin/busybox /usr/bin/busybox; do
    if [ -x "$path" ] && is_static "$path"; then echo "$path" && return; fi
  done
  return 1
}

