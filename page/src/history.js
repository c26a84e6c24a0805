// Series for charts, from the agent's buckets of ten seconds. Pure.

import { told } from "./edges.js";
import { seconds } from "./format.js";

/** Of the newest bucket, which isn't full: less says nothing of a rate. */
const ENOUGH_SECONDS = 3;

/**
 * Rates and quantiles over time of the edges that `of` takes: arrays of the same length, oldest first.
 * Where nothing was asked the rate is 0, and there is neither success nor latency. A bucket's latency is the highest of its edges'.
 */
export function series(answer, of) {
  const length = answer.bucket_seconds;
  const begin = seconds(answer.from);
  const now = seconds(answer.at);
  const count = Math.max(0, Math.ceil((now - begin) / length));
  const buckets = Array.from({ length: count }, () => ({ requests: 0, failures: 0, bytes: 0, p50: null, p99: null }));
  for (const edge of told(answer.edges).filter(of)) {
    for (const bucket of edge.buckets) {
      const all = buckets[Math.round((seconds(bucket.at) - begin) / length)];
      if (all) add(all, bucket);
    }
  }
  const result = { at: [], rps: [], failures: [], success: [], p50: [], p99: [], bytes: [] };
  buckets.forEach((bucket, index) => {
    const at = begin + index * length;
    const had = Math.min(length, now - at);
    if (had >= ENOUGH_SECONDS) append(result, at, had, bucket);
  });
  return result;
}

function add(all, bucket) {
  all.requests += bucket.requests;
  all.failures += bucket.failures;
  all.bytes += bucket.sent_bytes + bucket.received_bytes;
  all.p50 = highest(all.p50, bucket.p50_ms);
  all.p99 = highest(all.p99, bucket.p99_ms);
}

function append(result, at, had, { requests, failures, bytes, p50, p99 }) {
  result.at.push(at);
  result.rps.push(requests / had);
  result.failures.push(failures / had);
  result.bytes.push(bytes / had);
  result.success.push(requests > 0 ? (1 - failures / requests) * 100 : null);
  result.p50.push(p50);
  result.p99.push(p99);
}

function highest(a, b) {
  if (b == null) return a;
  return a == null ? b : Math.max(a, b);
}
