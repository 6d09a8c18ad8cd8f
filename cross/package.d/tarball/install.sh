#!/bin/sh
# Installs Pillion from the unpacked archive that this script is in, where no package manager does.
#
#   ./install.sh                     on this machine: user, binary, configuration, service; starts it
#   ./install.sh --no-start          the same without starting it
#   ./install.sh --destdir DIR       into the root of an image; nothing of this machine is touched
#   ./install.sh --init NAME         systemd, openrc, procd, sysv or none, instead of what is found
#   ./install.sh --uninstall         stops and removes it; /etc/pillion and the data stay
#
# Running it again upgrades: configuration that was changed here is left alone and the new one put
# beside it as FILE.new. Needs root, and a shell like busybox's.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root='' init='' start=yes uninstall=''
while [ $# -gt 0 ]; do
  case "$1" in
    --destdir)
      [ -n "${2:-}" ] || { echo "--destdir needs a directory" >&2; exit 2; }
      root=${2%/} start=''
      shift
      ;;
    --init) init=${2:-} && shift ;;
    --no-start) start='' ;;
    --uninstall) uninstall=yes ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown argument: $1 (--help shows them)" >&2; exit 2 ;;
  esac
  shift
done

say() { echo "pillion: $*"; }

# What is on the machine, or in the image.
found_init() {
  if [ -x "$root/sbin/procd" ] && [ -f "$root/etc/rc.common" ]; then
    echo procd
  elif [ -z "$root" ] && [ -d /run/systemd/system ]; then
    echo systemd
  elif [ -n "$root" ] && { [ -x "$root/usr/lib/systemd/systemd" ] || [ -x "$root/lib/systemd/systemd" ]; }; then
    echo systemd
  elif [ -x "$root/sbin/openrc-run" ] || [ -x "$root/usr/sbin/openrc-run" ]; then
    echo openrc
  elif [ -d "$root/etc/init.d" ]; then
    echo sysv
  else
    echo none
  fi
}

if [ -n "$root" ] && [ ! -d "$root" ]; then
  echo "no directory $root" >&2
  exit 2
fi
[ -n "$init" ] || init=$(found_init)
case "$init" in
  systemd | openrc | sysv | none) state=/var/lib/pillion ;;
  # /var is memory there, and what was acknowledged must survive a power cut.
  procd) state=/srv/pillion ;;
  *) echo "--init is one of systemd, openrc, procd, sysv, none" >&2; exit 2 ;;
esac
# What was installed, one a line: `path` or, for configuration, `path sha256`.
record=/usr/share/pillion/installed

# An init.d whose scripts are called S10name runs those at the start, in order, with start and stop.
numbered() { ls "$root"/etc/init.d/S[0-9][0-9]* >/dev/null 2>&1; }

# The service, as NAME of: stop, start, enable, disable. What fails is said and not fatal: the files
# are what counts.
service() {
  case "$init $1" in
    "systemd start") systemctl daemon-reload && systemctl restart pillion.service ;;
    "systemd stop") systemctl stop pillion.service ;;
    "systemd enable")
      if [ -z "$root" ]; then
        systemctl daemon-reload && systemctl enable -q pillion.service
      else
        mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
        ln -sf /usr/lib/systemd/system/pillion.service \
          "$root/etc/systemd/system/multi-user.target.wants/pillion.service"
      fi
      ;;
    "systemd disable") rm -f "$root/etc/systemd/system/multi-user.target.wants/pillion.service" ;;
    "openrc start") rc-service pillion restart ;;
    "openrc stop") rc-service pillion stop ;;
    "openrc enable")
      mkdir -p "$root/etc/runlevels/default"
      ln -sf /etc/init.d/pillion "$root/etc/runlevels/default/pillion"
      ;;
    "openrc disable") rm -f "$root/etc/runlevels/default/pillion" ;;
    "procd start") /etc/init.d/pillion restart ;;
    "procd stop") /etc/init.d/pillion stop ;;
    "procd enable")
      mkdir -p "$root/etc/rc.d"
      ln -sf ../init.d/pillion "$root/etc/rc.d/S95pillion"
      ln -sf ../init.d/pillion "$root/etc/rc.d/K10pillion"
      ;;
    "procd disable") rm -f "$root/etc/rc.d/S95pillion" "$root/etc/rc.d/K10pillion" ;;
    "sysv start") /etc/init.d/pillion restart ;;
    "sysv stop") /etc/init.d/pillion stop ;;
    "sysv enable")
      if numbered; then
        ln -sf pillion "$root/etc/init.d/S90pillion"
      elif [ -z "$root" ] && command -v update-rc.d >/dev/null; then
        update-rc.d pillion defaults >/dev/null
      elif [ -z "$root" ] && command -v chkconfig >/dev/null; then
        chkconfig --add pillion
      else
        for level in 0 1 2 3 4 5 6; do
          [ -d "$root/etc/rc$level.d" ] || continue
          case "$level" in [016]) link=K10pillion ;; *) link=S90pillion ;; esac
          ln -sf ../init.d/pillion "$root/etc/rc$level.d/$link"
        done
      fi
      ;;
    "sysv disable")
      rm -f "$root"/etc/init.d/S90pillion "$root"/etc/rc[0-6].d/[SK]??pillion
      ;;
    none*) ;;
  esac || say "could not $1 the service"
}

if [ -n "$uninstall" ]; then
  [ -f "$root$record" ] || { echo "nothing is installed: no $root$record" >&2; exit 1; }
  [ -n "$root" ] || service stop
  service disable
  while read -r path sum; do
    # Configuration stays.
    [ -n "$sum" ] || rm -f "$root$path"
  done <"$root$record"
  rm -f "$root$record"
  rm -rf "$root/usr/share/pillion"
  rmdir "$root/usr/lib/systemd/system/pillion.service.d" 2>/dev/null || :
  [ -n "$root" ] || [ "$init" != systemd ] || systemctl daemon-reload || :
  say "removed; $root/etc/pillion and $root$state stay"
  exit 0
fi

[ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo "run it as root" >&2; exit 1; }

# The user, with the tool of the machine or, in an image, by hand: an image's tools may be for
# another processor.
if ! grep -qs '^pillion:' "$root/etc/passwd"; then
  if [ -z "$root" ] && command -v useradd >/dev/null; then
    useradd --system --user-group --no-create-home --home-dir "$state" --shell /bin/false pillion
  else
    mkdir -p "$root/etc"
    id=200
    while cut -d: -f3 "$root/etc/passwd" "$root/etc/group" 2>/dev/null | grep -qx "$id"; do
      id=$((id + 1))
    done
    grep -qs '^pillion:' "$root/etc/group" || echo "pillion:x:$id:" >>"$root/etc/group"
    gid=$(sed -n 's/^pillion:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")
    echo "pillion:x:$id:$gid:Pillion gateway:$state:/bin/false" >>"$root/etc/passwd"
    [ ! -f "$root/etc/shadow" ] || echo "pillion:!:0:0:99999:7:::" >>"$root/etc/shadow"
  fi
fi
ids=$(sed -n 's/^pillion:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p' "$root/etc/passwd")

new=$root$record.new
mkdir -p "$root/usr/share/pillion"
: >"$new"

sum_of() { sha256sum <"$1" | cut -d' ' -f1; }

# put MODE FROM TO: a file of ours, replaced as a whole, so that a power cut leaves the old or the
# new one.
put() {
  mkdir -p "$root$(dirname "$3")"
  cp "$here/$2" "$root$3.tmp"
  chmod "$1" "$root$3.tmp"
  mv -f "$root$3.tmp" "$root$3"
  echo "$3" >>"$new"
}

# configure MODE FROM TO: a file of the operator's, replaced only if it is as we left it.
configure() {
  mkdir -p "$root$(dirname "$3")"
  sum=$(sum_of "$here/$2")
  left=$(sed -n "s|^$3 ||p" "$root$record" 2>/dev/null || :)
  if [ ! -e "$root$3" ]; then
    # One that was removed here stays so.
    [ -n "$left" ] || { cp "$here/$2" "$root$3" && chmod "$1" "$root$3"; }
  elif [ "$(sum_of "$root$3")" = "$sum" ]; then
    :
  elif [ "$(sum_of "$root$3")" = "$left" ]; then
    cp "$here/$2" "$root$3.tmp" && chmod "$1" "$root$3.tmp" && mv -f "$root$3.tmp" "$root$3"
  else
    cp "$here/$2" "$root$3.new" && chmod "$1" "$root$3.new"
    say "$3 was changed here and is kept; the new one is $3.new"
  fi
  echo "$3 $sum" >>"$new"
}

put 755 usr/bin/pillion /usr/bin/pillion
put 644 usr/share/man/man1/pillion.1 /usr/share/man/man1/pillion.1
put 644 LICENSE /usr/share/pillion/LICENSE
for file in $(cd "$here/usr/share/pillion" && find examples -type f | sort); do
  put 644 "usr/share/pillion/$file" "/usr/share/pillion/$file"
done
etc=etc/pillion
[ "$init" != procd ] || etc=openwrt/etc/pillion
for file in $(cd "$here/$etc" && ls); do
  configure 644 "$etc/$file" "/etc/pillion/$file"
done
case "$init" in
  systemd) put 644 service/pillion.service /usr/lib/systemd/system/pillion.service ;;
  openrc) put 755 service/pillion.openrc /etc/init.d/pillion ;;
  sysv) put 755 service/pillion.sysv /etc/init.d/pillion ;;
  procd)
    put 755 openwrt/etc/init.d/pillion /etc/init.d/pillion
    put 644 openwrt/lib/upgrade/keep.d/pillion /lib/upgrade/keep.d/pillion
    configure 644 openwrt/etc/config/pillion /etc/config/pillion
    ;;
esac
case "$init" in
  procd) configure 600 openwrt/environment /etc/pillion/environment ;;
  *) configure 640 etc/default/pillion /etc/default/pillion ;;
esac
mv -f "$new" "$root$record"

# Made here and not at the first start: a start must not need room on the disk.
if [ ! -d "$root$state" ]; then
  mkdir -p "$root$state"
  chmod 700 "$root$state"
  chown "$ids" "$root$state" 2>/dev/null || say "give $state to the user pillion ($ids) in the image"
fi

service enable
[ -z "$start" ] || service start
case "$init" in
  none) say "installed; no init was found: start \`pillion @COMMAND@\` with STATE_DIRECTORY=$state" ;;
  *) say "installed for $init" ;;
esac
