#!/bin/sh
# Replays test traffic at a service while capturing it, then fails if it used too much bandwidth.
#
#   TRAFFIC=test_traffic.gor SERVICE=http://127.0.0.1:8080 LIMIT=500MB ci/bandwidth-gate.sh [GATE OPTIONS]
#
# Capturing needs CAP_NET_RAW; without it the bytes that the replay itself sent and got are measured.
# Exit status: 0 within the limit, 1 over it, 2 where nothing could be measured.
set -eu
: "${TRAFFIC:?name the recorded traffic: TRAFFIC=test_traffic.gor}"
: "${SERVICE:?name the service: SERVICE=http://127.0.0.1:8080}"
LIMIT=${LIMIT:-500MB}
OUT=${OUT:-bandwidth-gate}
REPLAYKIT=${REPLAYKIT:-replaykit}
SPEED=${SPEED:-max}
mkdir -p "$OUT"
rm -f "$OUT/captured.parquet" "$OUT/replayed.gor"
place=${SERVICE#*://}
place=${place%%/*}
case "$place" in *:*) ;; *) case "$SERVICE" in https*) place=$place:443 ;; *) place=$place:80 ;; esac ;; esac

capture=""
if [ "${CAPTURE:-yes}" = yes ] && [ "${SERVICE%%:*}" = http ]; then
    $REPLAYKIT capture ":${place##*:}" --to "$OUT/captured.parquet" --overwrite --stats > "$OUT/capture.jsonl" 2> "$OUT/capture.log" &
    capture=$!
    tries=0
    until grep -q . "$OUT/capture.jsonl" 2>/dev/null; do
        kill -0 "$capture" 2>/dev/null || { capture=""; break; }
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || break
        sleep 0.1
    done
fi
status=0
$REPLAYKIT replay "$TRAFFIC" --to "$SERVICE" --speed "$SPEED" --save "$OUT/replayed.gor" || status=$?
measured="$OUT/replayed.gor"
if [ -n "$capture" ]; then
    sleep 1
    kill -INT "$capture"
    wait "$capture" || true
    measured="$OUT/captured.parquet"
fi
[ "$status" -eq 0 ] || { echo "bandwidth-gate: the replay failed" >&2; exit 2; }
exec $REPLAYKIT gate "$measured" --threshold "$LIMIT" "$@"
