#!/bin/sh
# Moves the kubelet to another container runtime, and back again if it is not healthy there.
# Run by the host's systemd, so that it lives on while every pod of the node ends. It needs nothing but sh, bash,
# coreutils, util-linux, systemd, the runtimes and crictl: not our pod, not Python, not the API.
#
#   commit.sh commit     stop the kubelet, end its pods, one rename, start it, see that it is and stays healthy
#   commit.sh resume     finish what a crash or a power cut left half done: forward from the rename on, else back
#   commit.sh deadman    nobody confirmed in time: roll back
#
#   armed ──> committing ──> committed ──> confirmed (by our pod)
#     │           └──────┬───────┘
#     │            rolling-back
#     └──────────> rolled-back
#
# Its folder holds: params (NAME=VALUE lines), containers (GRACE ID lines), state (one word), cause, log.
# Whoever changes the state, our pod too, holds the lock: what was read, holds until it is changed.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")" && pwd)

# Values come from outside: read as data, never by the shell.
value() { sed -n "s/^$1=//p" "$here/params"; }

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" "$*" >>"$here/log"; }
seconds() { cut -d. -f1 /proc/uptime; } # the clock on the wall may jump
state() { cat "$here/state" 2>/dev/null || echo none; }
write() { printf '%s\n' "$2" >"$here/$1.new" && sync "$here/$1.new" && mv -f "$here/$1.new" "$here/$1" && sync "$here"; }
enter() { write state "$1" && say "state: $1"; }
ctl() { timeout 120 systemctl "$@" >>"$here/log" 2>&1; }
cri() { endpoint=$1; limit=$2; shift 2; timeout 120 "$crictl" --runtime-endpoint "$endpoint" --timeout "${limit}s" "$@"; }

# The one rename. An empty name stands for no file at all.
place() {
  if [ -z "$1" ]; then rm -f "$target"; elif [ -e "$1" ]; then mv -f "$1" "$target"; fi && sync "$(dirname "$target")"
}
placed() { if [ -z "$1" ]; then [ ! -e "$target" ]; else [ ! -e "$1" ]; fi; }

# What the process was told; the last flag wins. Nothing where no flag names an endpoint.
told() {
  tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null |
    sed -n -e 's/^--container-runtime-endpoint=//p' -e '/^--container-runtime-endpoint$/{n;p;}' | tail -n 1
}

# bash is essential in Debian and Ubuntu; curl and wget are not. The address is an argument, not code.
# shellcheck disable=SC2016
ask='exec 3<>"/dev/tcp/$1/$2" && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && head -n 1 <&3'
answers() {
  [ -z "$healthz" ] || timeout 3 bash -c "$ask" _ "${healthz%:*}" "${healthz##*:}" 2>/dev/null | grep -q ' 200'
}

conditions='{{range .status.conditions}}{{if or (eq .type "RuntimeReady") (eq .type "NetworkReady")}}{{.status}}{{end}}{{end}}'
ready() { cri "$new_endpoint" 5 info -o go-template --template "$conditions" 2>>"$here/log" | grep -qx truetrue; }

# Why the kubelet, process $1, does not serve on the new runtime; nothing where it does.
ailing() {
  if [ "$1" = 0 ]; then
    echo "$unit does not run"
  elif [ "$(told "$1")" != "$want" ]; then
    echo "$unit was told '$(told "$1")', not '$want'"
  elif ! answers; then
    echo "$unit does not answer on $healthz"
  elif ! ready; then
    echo "$new_unit is not ready on $new_endpoint"
  fi
}

# Healthy within $health_timeout, then so for $settle seconds on end. A process that died after that dies again.
healthy() {
  deadline=$(($(seconds) + health_timeout))
  processes=
  since=
  while :; do
    now=$(systemctl show --property=MainPID --value "$unit" "$new_unit" | xargs)
    why=$(ailing "${now% *}")
    if [ -n "$processes" ] && [ "$now" != "$processes" ]; then
      why="$unit or $new_unit ended after it had been healthy (processes $processes, then $now)"
      return 1
    elif [ -z "$why" ]; then
      processes=$now
      since=${since:-$(seconds)}
      [ $(($(seconds) - since)) -lt "$settle" ] || return 0
    else
      since=
      [ "$(seconds)" -lt "$deadline" ] || return 1
    fi
    sleep 0.2
  done
}

# Ends every pod of the runtime at $1, by force: the control groups of the kubelet's pods tell what is to end, even
# where the runtime does not answer. (CRI-O would give each pod as long as crictl waits for the answer.)
end_pods() {
  end_processes
  cri "$1" 20 rmp --force --all >>"$here/log" 2>&1 || say "$1 could not remove every pod"
  end_processes
}

# No other containers are in these groups; a kubelet inside a container has its own, deeper down.
end_processes() {
  for _ in 1 2 3 4 5; do
    left=$(find /sys/fs/cgroup/kubepods* /sys/fs/cgroup/*/kubepods* -name cgroup.procs -exec cat {} + 2>/dev/null |
      sort -u | grep -vx 0)
    [ -n "$left" ] || return 0
    for process in $left; do kill -KILL "$process" 2>/dev/null; done
    sleep 0.1
  done
  say "still there: $left"
}

# All at once, but for the memory that many a crictl needs.
end_gracefully() {
  timeout $((stop_timeout + 5)) xargs -r -P 50 -L 1 \
    "$crictl" --runtime-endpoint "$1" --timeout $((stop_timeout + 5))s stop --timeout <"$here/containers" >/dev/null 2>&1
}

retreat() {
  ctl stop "$unit" || ctl kill --signal=KILL "$unit"
  # It ends its own pods best, if it can be had.
  timeout 20 systemctl start "$new_unit" 2>/dev/null
  end_pods "$new_endpoint"
  place "$saved"
  ctl daemon-reload
  ctl start "$old_unit"
  ctl reset-failed "$unit"
  ctl start "$unit"
}

roll_back() {
  say "rolling back: $1"
  [ -e "$here/cause" ] || write cause "$1"
  enter rolling-back
  journalctl --no-pager -o cat -n 15 -u "$unit" -u "$new_unit" >>"$here/log" 2>&1
  retreat
  enter rolled-back
}

# From the rename on there is one way: forward, and back only where that does not lead to health.
finish() {
  ctl daemon-reload
  why="it does not start"
  if ctl start "$new_unit" && ctl start "$unit" && { say "kubelet started"; healthy; }; then
    enter committed
  else
    roll_back "the kubelet did not get healthy on $new_unit: $why"
  fi
}

commit() {
  enter committing || exit 1
  ctl stop "$unit" || { roll_back "$unit does not stop"; return; }
  say "kubelet stopped"
  end_gracefully "$old_endpoint"
  end_pods "$old_endpoint"
  say "old pods ended"
  if place "$staged"; then finish; else roll_back "$target could not be put in place"; fi
}

# Where the power was cut before the rename, the boot has brought all back, and the move may be tried again.
# Where the program itself died, as systemd tells after its end, it is rather not.
resume() {
  if placed "$staged"; then
    finish
  elif [ -n "${SERVICE_RESULT:-}" ]; then
    roll_back "the move was cut off before its commit point: $SERVICE_RESULT"
  else
    say "the power was cut before the commit point"
    ctl start "$old_unit"
    ctl start "$unit"
    enter armed
  fi
}

exec 9>/run/sysbox-deploy-switch.lock
flock 9
unit=$(value unit)
target=$(value target)
staged=$(value staged)
saved=$(value saved)
want=$(value want)
new_endpoint=$(value new_endpoint)
old_endpoint=$(value old_endpoint)
new_unit=$(value new_unit)
old_unit=$(value old_unit)
crictl=$(value crictl)
healthz=$(value healthz)
health_timeout=$(value health_timeout)
settle=$(value settle)
stop_timeout=$(value stop_timeout)

case "$1 $(state)" in
'commit armed') commit ;;
'resume committing') resume ;;
'resume rolling-back' | 'deadman rolling-back') roll_back "the way back was cut off" ;;
'deadman committing' | 'deadman committed') roll_back "nobody confirmed the move in time" ;;
'deadman armed') write cause "nobody began the move in time" && enter rolled-back ;;
*) say "$1: nothing to do in state $(state)" ;;
esac
