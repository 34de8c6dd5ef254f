#!/usr/bin/env bash
# The demonstration behind `make demo`: bookinfo behind the ingress gateway, reviews split 80/10/10, every hop mutual TLS.
# Stays until Ctrl-C, or for DEMO_SECONDS; ends with a verdict and an exit status.
set -uo pipefail
cd "$(dirname "$0")/.."
LATEEN=${LATEEN:-target/release/lateen}
PORT=${DEMO_PORT:-18080}
STATE=$(mktemp -d)
failures=0

lateen() { "$LATEEN" --state "$STATE" "$@"; }
finish() {
    lateen down >/dev/null 2>&1
    rm -rf "$STATE"
}
trap finish EXIT
trap 'exit 130' INT TERM
check() { # DESCRIPTION STATUS
    if [ "$2" = 0 ]; then echo "  ok    $1"; else echo "  FAIL  $1"; failures=$((failures + 1)); fi
}

echo "Starting bookinfo ..."
lateen up examples/bookinfo --publish "127.0.0.1:$PORT:istio-ingressgateway:80" --detach || exit 1
started=$SECONDS

echo
echo "Driving traffic ..."
curl -fs -m 10 "http://127.0.0.1:$PORT/productpage" | grep -q 'Book Reviews'
check "the product page is served through the ingress gateway" $?

split=$(lateen exec deploy/productpage-v1 -- "$(realpath "$LATEEN")" app load --url http://reviews:9080/reviews/0 \
    --rps 200 --seconds 5 --key '"podname": ?"(reviews-v[0-9])')
read -r v1 v2 v3 ok < <(echo "$split" | python3 -c '
import json, sys
d = json.load(sys.stdin); s = d["split"]
print(*(s.get("reviews-v%d" % v, 0) for v in (1, 2, 3)), d["ok"])')
# Binomial 99% intervals for 1000 requests at 80%, 10% and 10%.
[ "$ok" = 1000 ] && [ "$v1" -ge 767 ] && [ "$v1" -le 833 ] && [ "$v2" -ge 75 ] && [ "$v2" -le 126 ] && [ "$v3" -ge 75 ] && [ "$v3" -le 126 ]
check "1000 requests to reviews: v1 $v1, v2 $v2, v3 $v3 (80/10/10 asked)" $?

plain=0 mutual=0
for workload in productpage-v1 details-v1 reviews-v1 reviews-v2 reviews-v3 ratings-v1; do
    stats=$(lateen exec "deploy/$workload" -- curl -s -m 5 http://127.0.0.1:15090/stats/prometheus |
        grep '^istio_requests_total{reporter="destination"')
    mutual=$((mutual + $(grep -c 'connection_security_policy="mutual_tls"' <<<"$stats")))
    plain=$((plain + $(grep -c 'connection_security_policy="none"' <<<"$stats")))
done
[ "$mutual" -gt 0 ] && [ "$plain" = 0 ]
check "every hop was mutual TLS ($mutual kinds of request, $plain in plain text)" $?

! lateen exec -n plain deploy/outsider -- curl -s -m 5 -o /dev/null http://reviews.default:9080/reviews/0
check "a plain-text call from a workload without a sidecar is refused" $?

cat <<TEXT

Look at it:
  http://127.0.0.1:$PORT/productpage                                   reload: the stars change with the version of reviews
  $LATEEN --state $STATE get pods -A
  $LATEEN --state $STATE proxy-status
  $LATEEN --state $STATE proxy-config route deploy/productpage-v1 --name 9080
  $LATEEN --state $STATE exec deploy/reviews-v1 -- curl -s http://ratings:9080/ratings/0
Edit a file in examples/bookinfo (the weights in the virtual service, say) and watch the change arrive.
TEXT

if [ -n "${DEMO_SECONDS:-}" ]; then
    left=$((DEMO_SECONDS - (SECONDS - started)))
    [ "$left" -gt 0 ] && sleep "$left"
elif [ "$failures" = 0 ]; then
    echo "Ctrl-C ends it."
    while sleep 3600; do :; done
fi
[ "$failures" = 0 ] && echo "demo: passed" || echo "demo: $failures checks failed"
exit "$failures"
