#!/bin/sh
# Moves the kubelet to another container runtime, and back again if it is not healthy there.
# Run by the host's systemd, so that it lives on while every pod of the node ends. It needs nothing but sh,
# systemd, coreutils, the runtimes and crictl: not our pod, not Python, not the API.
#
#   commit.sh commit     stop the kubelet, end its pods, one rename, start it, see that it is healthy
#   commit.sh after      the commit ended (well or not): roll back what it left unfinished
#   commit.sh deadman    nobody confirmed in time: roll back
#
# Its folder holds: params (NAME=VALUE lines), containers (ID GRACE lines), state (one word), log.
set -u
here=$(cd "$(dirname "$0")" && pwd)
LC_ALL=C
export LC_ALL

# Values come from outside: read as data, never by the shell.
value() { sed -n "s/^$1=//p" "$here/params"; }
unit=$(value unit)
target=$(value target)
staged=$(value staged)
saved=$(value saved)
had=$(value had)
new_endpoint=$(value new_endpoint)
old_endpoint=$(value old_endpoint)
new_unit=$(value new_unit)
old_unit=$(value old_unit)
crictl=$(value crictl)
healthz=$(value healthz)
health_timeout=$(value health_timeout)
settle=$(value settle)
stop_timeout=$(value stop_timeout)

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" "$*" >>"$here/log"; }
state() { cat "$here/state" 2>/dev/null || echo none; }
enter() {
  printf '%s\n' "$1" >"$here/state.new" && mv -f "$here/state.new" "$here/state" && sync "$here/state" "$here"
  say "state: $1"
}
cri() { e=$1; shift; timeout 120 "$crictl" --runtime-endpoint "$e" --timeout 60s "$@"; }

# What the running kubelet was told; the last one wins. Nothing where no flag names an endpoint.
told() {
  tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null |
    sed -n -e 's/^--container-runtime-endpoint=//p' -e '/^--container-runtime-endpoint$/{n;p;}' | tail -n 1
}

answers() {
  [ -n "$healthz" ] || return 0
  # bash is essential in Debian and Ubuntu; curl and wget are not. The address is an argument, not code.
  timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && head -n 1 <&3' \
    _ "${healthz%:*}" "${healthz##*:}" 2>/dev/null | grep -q ' 200'
}

# The same process, told the endpoint $1, answers for $settle seconds on end, within $health_timeout.
healthy() {
  deadline=$(($(date +%s) + health_timeout))
  since=0
  was=
  while [ "$(date +%s)" -lt "$deadline" ]; do
    pid=$(systemctl show --property=MainPID --value "$unit")
    if [ "$pid" != 0 ] && [ "$(told "$pid")" = "$1" ] && answers && systemctl -q is-active "$2"; then
      [ "$pid" = "$was" ] || { was=$pid; since=$(date +%s); }
      [ $(($(date +%s) - since)) -ge "$settle" ] && return 0
    else
      was=
    fi
    sleep 0.2
  done
  say "the kubelet is not healthy on $1 after $health_timeout s: pid $pid, told '$(told "$pid")', $2 $(systemctl is-active "$2")"
  journalctl --no-pager -o cat -n 15 -u "$unit" >>"$here/log" 2>&1
  return 1
}

# The kubelet is stopped by now, so what it left runs until it is ended here.
end_pods() {
  if [ "$1" = graceful ] && [ -f "$here/containers" ]; then
    while read -r id grace; do
      timeout $((grace + 5)) "$crictl" --runtime-endpoint "$2" --timeout $((grace + 5))s stop --timeout "$grace" "$id" &
    done <"$here/containers" >/dev/null 2>&1
    wait
  fi
  cri "$2" rmp -f -a >>"$here/log" 2>&1 || say "not every pod of $2 could be removed"
}

put_back() {
  if [ "$had" = 1 ]; then
    [ ! -e "$saved" ] || mv -f "$saved" "$target"
  else
    rm -f "$target"
  fi
  sync "$(dirname "$target")"
}

roll_back() {
  say "rolling back: $1"
  printf '%s\n' "$1" >"$here/cause"
  enter rolling-back
  systemctl stop "$unit"
  end_pods forced "$new_endpoint"
  put_back
  systemctl daemon-reload
  systemctl start "$old_unit"
  systemctl reset-failed "$unit" 2>/dev/null
  systemctl start "$unit"
  enter rolled-back
}

commit() {
  enter committing
  systemctl stop "$unit" || { roll_back "$unit could not be stopped"; return; }
  say "kubelet stopped"
  end_pods graceful "$old_endpoint"
  say "old pods ended"
  mv -f "$staged" "$target" || { roll_back "$target could not be put in place"; return; }
  sync "$(dirname "$target")"
  systemctl daemon-reload
  systemctl start "$new_unit" && systemctl start "$unit"
  say "kubelet started"
  if healthy "$(value want)" "$new_unit"; then enter committed; else roll_back "the kubelet did not get healthy on $new_unit"; fi
}

case ${1:-} in
commit)
  case $(state) in armed) commit ;; *) say "commit: nothing to do in state $(state)" ;; esac
  ;;
after)
  case $(state) in committing | rolling-back) roll_back "the commit was cut off" ;; esac
  ;;
deadman)
  systemctl stop sysbox-deploy-switch.service
  case $(state) in
  confirmed | rolled-back | none) say "dead man: nothing to do in state $(state)" ;;
  armed) enter rolled-back ;;
  *) roll_back "nobody confirmed the move in time" ;;
  esac
  ;;
*)
  echo "usage: commit.sh commit|after|deadman" >&2
  exit 2
  ;;
esac
