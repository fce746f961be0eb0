# shellcheck shell=bash
# Source this for steps that take minutes: their output goes to the file $log, which the caller
# sets, one line of progress to standard output, and why one failed, in one line, to the user.

log= # the caller's

exec 4>&2 # errors go to the user, also from inside a step, whose output goes to the log
fail() {
  printf 'error: %s\n' "$1" >&4
  exit 1
}

reporter=
trap '[[ -z $reporter ]] || kill "$reporter" 2>/dev/null || true' EXIT
trap '[[ ! -t 1 ]] || echo >&4; fail "interrupted: run it again to go on from here"' INT TERM

progress() { # progress NAME OFFSET: follow the log from OFFSET until killed
  local start=$SECONDS last=$SECONDS seconds now line
  exec 3<> <(:) # never readable: `read -t` sleeps without a child that would outlive us
  while true; do
    read -rt 1 -u 3 || true
    # ninja counts [n/m]; elsewhere show what pip is at
    now=$(tail -c "+$2" "$log" | tail -c 300000 |
      grep -oE '^ *(\[[0-9]+/[0-9]+\]|Collecting [^ ]+|Installing .*packages)' | tail -n 1) || true
    seconds=$((SECONDS - start))
    printf -v line '%s  %d:%02d  %s' "$1" $((seconds / 60)) $((seconds % 60)) "${now#"${now%%[! ]*}"}"
    if [[ -t 1 ]]; then
      printf '\r\033[K%.*s' "${COLUMNS:-79}" "$line"
    elif ((SECONDS - last >= 30)); then
      last=$SECONDS
      printf '%s\n' "$line"
    fi
  done
}

step() { # step NAME COMMAND...
  local name=$1 from ok=true
  shift
  printf '== %s\n' "$name" >>"$log"
  from=$(($(stat -c %s "$log") + 1))
  # The command stays in the foreground: Ctrl-C must reach it and its children.
  progress "$name" "$from" &
  reporter=$!
  "$@" >>"$log" 2>&1 || ok=false
  kill "$reporter" 2>/dev/null || true
  wait "$reporter" 2>/dev/null || true
  reporter=
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
  $ok || explain "$name" "$from"
  printf '%s: done\n' "$name"
}

explain() { # say in one line why step $1 failed, from the log's part $2
  local text
  text=$(tail -c "+$2" "$log")
  has() { grep -qE "$1" <<<"$text"; }
  if has 'No space left on device'; then
    fail "the disk is full: free 2 GB, then run this again (log: $log)"
  elif has 'Killed signal|fatal error: Killed'; then
    fail "the compiler ran out of memory: run this again with CMAKE_BUILD_PARALLEL_LEVEL=1 (log: $log)"
  elif has 'DO NOT MATCH THE HASHES'; then
    fail "a downloaded file is not the one that requirements/hashed/ knows: nothing of it was installed; try another index (log: $log)"
  elif has '(NewConnection|ProxyError|SSLError|NameResolution|ConnectTimeout|ReadTimeout|IncompleteRead)|Connection (refused|broken|aborted)|Temporary failure in name resolution|Network is unreachable|timed out|\(from versions: none\)'; then
    fail "PyPI cannot be reached: check the network, https_proxy, or PIP_INDEX_URL for a mirror, then run this again (log: $log)"
  fi
  fail "$1 failed: the end of $log says why"
}
